"""What laws are tried on: one model per architecture, with adapters of several methods and sizes."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from hypothesis import strategies as st

from compose.dsl import Average, Drop, Expression, Fuse, Parallel, Stack, branches, fuses, leaves, own_name
from compose.errors import CompileError
from compose.runtime.model import Model
from compose.runtime.runnable import RunnablePlan
from tests import tiny
from tests.dsl.strategies import ALL, expressions

ARCHITECTURES = tuple(tiny.CONFIGS)
LAYERS = 2
ROWS = 4
TOKENS = 8

ADAPTERS: dict[str, tuple[str, dict[str, Any]]] = {
    "a": ("seq_bn", {"bottleneck_size": 8}),
    "b": ("double_seq_bn", {"bottleneck_size": 8}),
    "c": ("seq_bn", {"bottleneck_size": 5, "leave_out": [0], "non_linearity": "gelu"}),
    "d": ("par_bn", {"bottleneck_size": 8, "scaling": 1.5}),
    "lora": ("lora", {"r": 4, "alpha": 8, "intermediate_lora": True}),
    "full": ("lora", {"r": 2, "attn_matrices": ["q", "k", "v"], "output_lora": True}),
    "ia3": ("ia3", {}),
    "dora": ("dora", {"r": 3, "output_lora": True}),
    "vera": ("vera", {"r": 3, "attn_matrices": ["q", "k", "v"]}),
    "mtl": ("mtl_lora", {"r": 3, "n_up_projection": 2, "task_specific_matrix_type": "linear"}),
    "norm": (
        "double_seq_bn",
        {"bottleneck_size": 4, "ln_before": True, "ln_after": True, "scaling": "learned"},
    ),
    "reft": ("loreft", {"r": 2, "prefix_positions": 2, "suffix_positions": 3}),
    "first": ("direft", {"r": 2, "prefix_positions": 5, "layers": [0], "non_linearity": "tanh"}),
    "bias": ("bitfit", {"everywhere": True}),
    "norms": ("bitfit", {"selfattn": ["norm"], "crossattn": ["norm"], "ffn": ["norm"], "everywhere": True}),
    "compact": ("compacter++", {"bottleneck_size": 8}),
    "bare": ("seq_bn", {"bottleneck_size": 4, "residual": False}),
}
GATED = {"gated": ("seq_bn", {"bottleneck_size": 4, "use_gating": True})}


@cache
def world(architecture: str) -> Model:
    """A model with all of `ADAPTERS`, its weights random."""
    model = tiny.model(architecture, LAYERS)
    for seed, (name, (method, options)) in enumerate({**ADAPTERS, **GATED}.items()):
        tiny.randomize(model.add_adapter(name, method, **options), seed)
    return model


def layers_of(architecture: str) -> int:
    """How many layers an expression can drop."""
    return LAYERS * 2 if architecture == "t5" else LAYERS


def tokens_of(architecture: str) -> int:
    """Tokens of a row."""
    return 17 if architecture == "vit" else TOKENS


@st.composite
def settings_of(draw: Any, blocks: tuple[str, ...] = ALL, names: tuple[str, ...] = tuple(ADAPTERS)) -> Any:
    """An architecture and an expression for it."""
    architecture = draw(st.sampled_from(ARCHITECTURES))
    # Encoder and decoder have different numbers of tokens, so that a Split fits one of them only.
    legal = tuple(block for block in blocks if not (block == "Split" and architecture == "t5"))
    expression = draw(
        expressions(names, 5, blocks=legal, layers=layers_of(architecture), tokens=tokens_of(architecture), rows=ROWS)
    )
    return architecture, expression


def batch(architecture: str, padded: bool = False, seed: int = 0) -> dict[str, torch.Tensor]:
    """A batch of the size that drawn sizes fit."""
    return tiny.inputs(architecture, ROWS, TOKENS, padded, seed)


def add_fusion(model: Model, name: str, children: tuple[str, ...], sizes: set[int]) -> None:
    """Fresh weights for the Fuses of a name, of a kind that the name decides; scales where all are of one size."""
    kinds = ("dynamic", "static", "scalearn", "scalearn_uniform++")
    kind = kinds[sum(map(ord, name)) % len(kinds)]
    if len(sizes) > 1 or not kind.startswith("scalearn"):
        model.add_fusion(Fuse(*children, name=name), kind if len(sizes) == 1 else "static")
    else:  # as many children, at the same sites
        model.add_fusion(Fuse(Stack(*children), *[None] * (max(sizes) - 1), name=name), kind)


def planned(
    model: Model,
    expression: Expression,
    without: tuple[str, ...] = (),
    refused: tuple[str, ...] = ("close layer", "no weights for the fusion"),
) -> RunnablePlan | None:
    """The plan, with random weights for its fusions.

    None if something is fused that has no increment, or an error says one of `refused`: by default that adapters in it
    close a site differently, or that a fusion has other weights.
    """
    if not all(model.adapters[name].spec.fusible for fuse in fuses(expression) for name in leaves(fuse)):
        return None
    wanted: dict[str, list[str]] = {}
    sizes: dict[str, set[int]] = {}
    for fuse in fuses(expression):
        wanted.setdefault(own_name(fuse) or "", []).extend(leaves(fuse))
        sizes.setdefault(own_name(fuse) or "", set()).add(len(fuse.children))
    for name, children in wanted.items():
        if name in model.fusions:
            model.delete_fusion(name)
        if children:
            add_fusion(model, name, tuple(dict.fromkeys(children)), sizes[name])
            tiny.randomize(model.fusions[name], len(name), 0.2)
    return planned_unless(model, expression, without, *refused)


def planned_unless(
    model: Model, expression: Expression, without: tuple[str, ...], *refused: str
) -> RunnablePlan | None:
    """The plan; None where an error says one of some things, or that a task would be a split's."""
    try:
        return model.plan(expression, without)
    except CompileError as error:
        if any(text in str(error) for text in (*refused, "names nothing")):
            return None
        raise


def branches_are_single_runs(
    model: Model,
    plan: RunnablePlan,
    inputs: dict[str, torch.Tensor],
    routes: Callable[[Expression], dict[str, Any]],
    tolerance: float = 1e-9,
    longer: bool = False,
) -> None:
    """Each branch of a plan gives what it gives alone; with `longer` its rows may end in padding."""
    parted = branches(plan.expression)
    found = states(plan, inputs, **routes(plan.expression)).chunk(len(parted))
    for branch, rows in zip(parted, found, strict=True):
        alone = states(model.plan(branch.expression), inputs, **routes(branch.expression))
        close(rows[:, : alone.shape[1]] if longer else rows, alone, tolerance)


def identities_hold(
    model: Model, plan: RunnablePlan, inputs: dict[str, torch.Tensor], layers: int, tolerance: float = 1e-9
) -> None:
    """What a block around one expression leaves as it is."""
    expression, expected = plan.expression, states(plan, inputs)
    for same in (Stack(expression), Drop(expression, first=0), Average(expression, expression), Parallel(expression)):
        close(states(model.plan(same), inputs), expected, tolerance)
    nothing = Drop(expression, first=layers)
    assert torch.equal(states(model.plan(nothing), inputs), states(model.plan(None), inputs))


def states(plan: RunnablePlan, inputs: dict[str, torch.Tensor], **options: Any) -> torch.Tensor:
    """The last states without gradients."""
    with torch.no_grad():
        return plan.states(**inputs, **options).last_hidden_state


def close(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-9) -> None:
    """Equal within a tolerance relative to the largest value."""
    assert found.shape == expected.shape
    scale = max(1.0, float(expected.abs().max())) if expected.numel() else 1.0
    assert float((found - expected).abs().max() if found.numel() else 0.0) <= tolerance * scale
