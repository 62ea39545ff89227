"""What laws are tried on: one model per architecture, with adapters of every method and several sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from types import MethodType
from typing import Any

import torch
from hypothesis import strategies as st

from compose import merge_adapters, prune_neurons, sparsify
from compose.dsl import (
    Average,
    BatchSplit,
    Block,
    Drop,
    Expression,
    Fuse,
    Parallel,
    Route,
    Stack,
    branches,
    fuses,
    leaves,
    own_name,
    walk,
    with_children,
)
from compose.errors import CompileError, ComposeError
from compose.methods.fusions import FUSION_PRESETS
from compose.methods.prefix.spec import LEARNED, RELATIVE
from compose.runtime.attach import attach
from compose.runtime.model import Model
from compose.runtime.runnable import RunnablePlan
from tests import tiny
from tests.dsl.strategies import ALL, expressions

ARCHITECTURES = tuple(tiny.CONFIGS)
LAYERS = 2
ROWS = 4
TOKENS = 8

Made = Mapping[str, tuple[str, Mapping[str, Any]]]
"""Adapters by name: a preset, and options that differ from it."""

SMALL_PREFIX = {"method": "prefix_tuning", "prefix_length": 4, "bottleneck_size": 5}
ADAPTERS: Made = {
    "a": ("seq_bn", {"bottleneck_size": 8}),
    "twin": ("seq_bn", {"bottleneck_size": 8}),
    "b": ("double_seq_bn", {"bottleneck_size": 8}),
    "c": ("seq_bn", {"bottleneck_size": 5, "leave_out": [0], "non_linearity": "gelu"}),
    "d": ("par_bn", {"bottleneck_size": 8, "scaling": 1.5}),
    "scaled": ("scaled_par_bn", {"bottleneck_size": 4}),
    "plus": ("adapter_plus", {"bottleneck_size": 4}),
    "norm": ("double_seq_bn", {"bottleneck_size": 4, "ln_before": True, "ln_after": True, "scaling": "learned"}),
    "bare": ("seq_bn", {"bottleneck_size": 4, "residual": False}),
    "nice": ("seq_bn_inv", {"bottleneck_size": 4}),
    "glow": ("double_seq_bn_inv", {"bottleneck_size": 4, "inv_adapter": "glow"}),
    "compact": ("compacter", {"bottleneck_size": 8, "factorized_phm_rule": True}),
    "compact1": ("compacter++", {"bottleneck_size": 8}),
    "lora": ("lora", {"r": 4, "alpha": 8, "intermediate_lora": True}),
    "full": ("rslora", {"r": 2, "attn_matrices": ["q", "k", "v", "o"], "output_lora": True}),
    "ia3": ("ia3", {}),
    "dora": ("dora", {"r": 3, "output_lora": True}),
    "vera": ("vera", {"r": 3, "attn_matrices": ["q", "k", "v"]}),
    "dvora": ("dvora", {"r": 3}),
    "mtl": ("mtl_lora", {"r": 3, "n_up_projection": 2, "task_specific_matrix_type": "linear"}),
    "reft": ("loreft", {"r": 2, "prefix_positions": 2, "suffix_positions": 3}),
    "tied": ("noreft", {"r": 2, "tied_weights": True}),
    "first": ("direft", {"r": 2, "prefix_positions": 5, "layers": [0], "non_linearity": "tanh"}),
    "bias": ("bitfit", {"everywhere": True}),
    "norms": ("bitfit", {"selfattn": ["norm"], "crossattn": ["norm"], "ffn": ["norm"], "everywhere": True}),
    "some": ("bitfit_partial", {"everywhere": True}),
    "three": ("prompt_tuning", {"prompt_length": 3}),
    "five": ("prompt_tuning", {"prompt_length": 5, "combine": "prefix_after_bos"}),
    "words": ("prompt_tuning", {"prompt_length": 2, "as_words": True}),
    "prefix": ("prefix_tuning", {"prefix_length": 4, "bottleneck_size": 5}),
    "counted": ("prefix_tuning_flat", {"prefix_length": 4, "counted": True}),
    "flat": ("prefix_tuning_flat", {"prefix_length": 4}),
    "long": ("prefix_tuning", {"prefix_length": 7, "bottleneck_size": 3, "cross_prefix": False}),
    "upper": ("prefix_tuning_flat", {"prefix_length": 2, "leave_out": [0], "encoder_prefix": False}),
    "mam": ("mam", {"configs": [SMALL_PREFIX, {"method": "par_bn", "bottleneck_size": 4}]}),
    "turns": (
        "union",
        {"configs": [{"method": "lora", "r": 2}, "dora", {"method": "seq_bn_inv", "bottleneck_size": 4}]},
    ),
    "layers": ("layer_aggregation", {}),
    "others": ("layer_aggregation", {"tailor": False, "leave_out": [1]}),
}
GATED: Made = {
    "gated": ("seq_bn", {"bottleneck_size": 4, "use_gating": True}),
    "unipelt": (
        "unipelt",
        {
            "configs": [
                {**SMALL_PREFIX, "use_gating": True},
                {"method": "seq_bn", "bottleneck_size": 4, "use_gating": True},
                {"method": "lora", "r": 2, "use_gating": True},
            ]
        },
    ),
}
"""Those whose gates are means over a row's tokens, padding included."""
DERIVED = ("sparse", "thin", "pruned", "ties", "joined")
"""Those that something has been done to: see `world`."""

FUSIONS: tuple[tuple[str, Mapping[str, Any]], ...] = (
    *((preset, {}) for preset in FUSION_PRESETS),
    ("dynamic", {"query_before_ln": True, "residual_before": True, "temperature": True}),
    ("static", {"key": False}),
)
"""The kinds of fusions that are drawn."""

REFUSALS = (
    "close layer",
    "cannot be fused",
    "there are no weights for the fusion",
    "children of this Stack aggregate the layers",
    "virtual tokens at layer",
    "a prefix acts in this Split",
    "this Split cuts rows that a prompt makes longer",
    "children of this Average make rows longer in different ways",
    "weights of this Average of prompts do not add up to 1",
    "names nothing",
    "cut it up in different ways",
)
"""All that a drawn expression may be refused for when it is compiled."""


def fresh(architecture: str) -> Model:
    """A model without adapters. Its RMSNorms compute in float64, as all else does; transformers' square in float32."""
    model = tiny.model(architecture, LAYERS)
    for module in model.backbone.modules():
        if type(module).__name__.endswith(("RMSNorm", "T5LayerNorm")):
            module.forward = MethodType(_normed, module)
    return model


@cache
def world(architecture: str, precision: str | None = None, scale: float = 0.3) -> Model:
    """A model with adapters of all methods, their weights random; some pruned, made sparse or merged of others.

    In float64, or with a precision with the weights of float32.
    """
    if precision is None:
        model = fresh(architecture)
    else:
        model = attach(tiny.backbone(architecture, LAYERS, torch.float32), precision=precision).eval()
    given = dict(**ADAPTERS, **GATED)
    if model.spec.encoder_decoder:  # whose two stacks have different tokens, so that their layers do not add up
        given = {name: made for name, made in given.items() if made[0] != "layer_aggregation"}
    if architecture == "vit":  # has no words
        del given["words"]
    if architecture not in (*LEARNED, *RELATIVE):
        del given["counted"]
    given |= {"sparse": given["b"], "thin": given["lora"], "pruned": given["b"]}
    for seed, (name, (preset, options)) in enumerate(given.items()):
        tiny.randomize(model.add_adapter(name, preset, **options), seed, scale)
    sparsify(model, "sparse", 0.6)
    sparsify(model, "thin", 0.5, "random", seed=0)
    prune_neurons(model, "pruned", 0.5)
    merge_adapters(model, ["a", "twin"], "ties", "ties", density=0.5)
    merge_adapters(model, ["lora", "thin"], "joined", "concat", weights=[0.5, -1.0])
    return model


def _normed(norm: Any, states: torch.Tensor) -> torch.Tensor:
    variance = states.pow(2).mean(-1, keepdim=True)
    return norm.weight * (states * torch.rsqrt(variance + norm.variance_epsilon))


def layers_of(architecture: str) -> int:
    """How many layers an expression can drop."""
    return LAYERS * 2 if architecture == "t5" else LAYERS


def tokens_of(architecture: str) -> int:
    """Tokens of a row."""
    return 17 if architecture == "vit" else TOKENS


def names_of(architecture: str) -> tuple[str, ...]:
    """The adapters of an architecture."""
    names: tuple[str, ...] = world(architecture).adapters.names
    return names


def drawn(architecture: str, blocks: tuple[str, ...] = ALL, largest: int = 5) -> st.SearchStrategy[Expression]:
    """Expressions over the adapters of an architecture; what a Fuse cannot weigh stands in none."""
    model = world(architecture)
    # Encoder and decoder have different numbers of tokens, so that a Split fits one of them only.
    legal = tuple(block for block in blocks if not (block == "Split" and model.spec.encoder_decoder))
    fusible = [
        name for name, spec in model.adapters.specs.items() if spec.fusible and model.spec.embed_key not in spec.by_site
    ]
    sizes = {"layers": layers_of(architecture), "tokens": tokens_of(architecture), "rows": ROWS}
    return expressions(names_of(architecture), largest, blocks=legal, fusible=fusible, **sizes)


@st.composite
def settings_of(draw: Any, blocks: tuple[str, ...] = ALL, architectures: tuple[str, ...] = ARCHITECTURES) -> Any:
    """An architecture and an expression for it."""
    architecture = draw(st.sampled_from(architectures))
    return architecture, draw(drawn(architecture, blocks))


def batch(architecture: str, padded: bool = False, seed: int = 0) -> dict[str, torch.Tensor]:
    """A batch of the size that drawn sizes fit."""
    return tiny.inputs(architecture, ROWS, TOKENS, padded, seed)


def routes(expression: Expression) -> dict[str, list[str]]:
    """A route for a plan with a Route, nothing for others."""
    names = [task for _, node in walk(expression) if isinstance(node, Route) for task in node.tasks]
    return {"route": [names[(row * 7 + 1) % len(names)] for row in range(ROWS)]} if names else {}


def consistent_routes(expression: Expression) -> bool:
    """Whether all Routes of an expression have the same tasks, so that any route fits."""
    return len({frozenset(node.tasks) for _, node in walk(expression) if isinstance(node, Route)}) <= 1


def add_fusion(model: Model, name: str, children: tuple[str, ...], sizes: set[int]) -> None:
    """Fresh weights for the Fuses of a name, of a kind that name and children decide; see `FUSIONS`.

    Scales, which each child has by its place, where all Fuses of the name are of one size.
    """
    kind, options = FUSIONS[sum(map(ord, name + "".join(children))) % len(FUSIONS)]
    fuse = Fuse(*children, name=name)
    if kind.startswith("scalearn"):
        if len(sizes) == 1:  # as many children, at the same sites
            fuse = Fuse(Stack(*children), *[None] * (max(sizes) - 1), name=name)
        else:
            kind, options = "static", {}
    tiny.randomize(model.add_fusion(fuse, kind, **options), len(name), 0.2)


def give_fusions(model: Model, expression: Expression) -> None:
    """Random weights for the fusions of an expression."""
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


def planned(model: Model, expression: Expression, without: tuple[str, ...] = ()) -> RunnablePlan | None:
    """The plan, with random weights for its fusions; None where it is refused, for one of `REFUSALS`.

    ViT takes no attention mask, and so no rows of several lengths: that is found out when it is called.
    """
    try:
        give_fusions(model, expression)
        plan = model.plan(expression, without)
    except CompileError as error:
        refusal(error)
        return None
    return None if is_ragged(plan) and model.spec.architecture == "vit" else plan


def refusal(error: ComposeError) -> str:
    """Which of `REFUSALS` an error is; all its problems are some."""
    found = [next((text for text in REFUSALS if text in problem.what), None) for problem in error.problems]
    if None in found:
        raise error
    return str(found[0])


def is_gated(expression: Expression) -> bool:
    """Whether a row's result depends on how far it is padded."""
    return any(name in GATED for name in leaves(expression))


def is_ragged(plan: RunnablePlan) -> bool:
    """Whether prompts make some rows longer than others, which end in padding then."""
    least, most = plan.plan.added_tokens
    return least != most


def of_row(expression: Expression, row: int, rows: int, name: str | None) -> Expression:
    """What acts on one row of a batch of `rows`, which is routed to a name."""
    if not isinstance(expression, Block):
        return expression
    if isinstance(expression, Route):
        return of_row(expression.children[expression.tasks.index(str(name))], row, rows, name)
    if isinstance(expression, BatchSplit):
        for child, start, size in spans(expression, rows):
            if start <= row < start + size:
                return of_row(child, row - start, size, name)
        raise AssertionError("sizes add up to the rows")
    children = [of_row(child, row, rows, name) for child in expression.children]
    if isinstance(expression, Fuse):
        return Fuse(*children, name=own_name(expression))
    return with_children(expression, children)


def spans(split: BatchSplit, rows: int) -> Iterator[tuple[Expression, int, int]]:
    """The children of a BatchSplit with the start and number of their rows."""
    start, rest = 0, rows - sum(size or 0 for size in split.sizes)
    for child, size in zip(split.children, split.sizes, strict=True):
        own = rest if size is None else size
        yield child, start, own
        start += own


def alone(inputs: Mapping[str, torch.Tensor], row: int, cut: bool = True) -> dict[str, torch.Tensor]:
    """One row of a batch; with `cut` without its padding."""
    one = {name: tensor[[row]] for name, tensor in inputs.items()}
    if cut and "attention_mask" in one:
        length = int(one.pop("attention_mask").sum())
        one["input_ids"] = one["input_ids"][:, :length]
    return one


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


def states(plan: RunnablePlan, inputs: Mapping[str, torch.Tensor], **options: Any) -> torch.Tensor:
    """The last states without gradients."""
    with torch.no_grad():
        return plan.states(**inputs, **options).last_hidden_state


def close(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-9) -> None:
    """Equal within a tolerance relative to the largest value."""
    assert found.shape == expected.shape
    scale = max(1.0, float(expected.abs().max())) if expected.numel() else 1.0
    assert float((found - expected).abs().max() if found.numel() else 0.0) <= tolerance * scale
