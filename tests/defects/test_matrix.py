"""F10: every block with every method at every site of every architecture does what it says, or is refused.

A cell is one adapter that acts at one site only, in a block beside a bottleneck. That it works means: putting
None in its place changes the result (nothing falls through), and where the block gives rows or branches to
its children, these are the children's own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from torch import Tensor

from compose.dsl import Average, BatchSplit, Drop, Expression, Fuse, Parallel, Route, Split, Stack
from compose.errors import CompileError
from compose.runtime.model import Model
from tests import tiny
from tests.defects.cases import CELLS, EVERY, batch, differ, fusion, model, out
from tests.laws.worlds import close

BESIDE = "beside"
"""The adapter that stands beside the one of the cell."""


def lora(**options: Any) -> tuple[str, dict[str, Any]]:
    """A LoRA at the sites named, and at no others."""
    return "lora", {"selfattn_lora": False, "crossattn_lora": False, **options}


def bottleneck(**options: Any) -> tuple[str, dict[str, Any]]:
    """A bottleneck at the sites named, and at no others."""
    return "bottleneck", {"output_adapter": False, **options}


SITES: dict[str, tuple[str, dict[str, Any]]] = {
    "attn": bottleneck(mh_adapter=True),
    "cross.attn": bottleneck(cross_adapter=True),
    "ffn": bottleneck(output_adapter=True),
    **{f"attn.{m}": lora(selfattn_lora=True, attn_matrices=[m]) for m in "qkvo"},
    **{f"cross.attn.{m}": lora(crossattn_lora=True, attn_matrices=[m]) for m in "qkvo"},
    "ffn.in": lora(intermediate_lora=True),
    "ffn.out": lora(output_lora=True),
    "layer": ("loreft", {"suffix_positions": 1}),
    "attn.core": ("prefix_tuning", {"prefix_length": 3, "bottleneck_size": 4, "cross_prefix": False}),
    "cross.attn.core": ("prefix_tuning", {"prefix_length": 3, "bottleneck_size": 4, "encoder_prefix": False}),
}
TOGETHER = {"cross.attn.core": {"attn.core", "cross.attn.core"}}
"""What acts at a site never without another: a decoder has prefixes of its own wherever it has those of the encoder."""
REFUSED = {"core": ("Fuse", "Average", "Split")}
"""The blocks in which nothing can stand beside an adapter of a site, by the last part of its name."""

NORMS = {"attn.norm": "selfattn", "cross.attn.norm": "crossattn", "ffn.norm": "ffn"}
SITES |= {
    site: ("bitfit", {name: ["norm"] if name == field else [] for name in NORMS.values()})
    for site, field in NORMS.items()
}

BLOCKS: dict[str, Callable[[Expression], Expression]] = {
    "Stack": lambda x: Stack(x, BESIDE),
    "Stack, last": lambda x: Stack(BESIDE, x),
    "Fuse": lambda x: Fuse(x, BESIDE, name="f"),
    "Parallel": lambda x: Parallel(x, BESIDE),
    "Drop": lambda x: Drop(x, first=1),
    "Average": lambda x: Average(x, BESIDE, weights=[1, 3]),
    "Split": lambda x: Split(x, BESIDE, sizes=[3, None]),
    "BatchSplit": lambda x: BatchSplit(x, BESIDE, sizes=[1, None]),
    "Route": lambda x: Route(x=x, y=BESIDE),
}


@cache
def world(architecture: str) -> Model:
    """A model with an adapter for each of its sites."""
    spec = tiny.model(architecture).spec
    here = {site for layer in spec.layers for site in layer.sites}
    made = model(architecture, **{site: how for site, how in SITES.items() if site in here}, beside="double_seq_bn")
    assert {*made.adapters} - {BESIDE} == here, "a site that no method reaches"
    return made


@cache
def alone(architecture: str, name: str | None) -> Tensor:
    """What an adapter gives by itself."""
    return out(world(architecture), name, batch(architecture, padded=True))


def run(architecture: str, expression: Expression) -> Tensor:
    """What an expression gives; a Route sends the first row to x."""
    route = {"route": ["x", "y"]} if isinstance(expression, Route) else {}
    return out(world(architecture), expression, batch(architecture, padded=True), **route)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("architecture", tiny.CONFIGS)
def test_cells(architecture: str, block: str) -> None:
    """F10: nothing falls through."""
    made, build = world(architecture), BLOCKS[block]
    nothing = None if block == "Fuse" else run(architecture, build(None))
    for site in made.adapters:
        if site == BESIDE:
            continue
        assert {key[1] for key in made.adapters.specs[site].by_site} == TOGETHER.get(site, {site})
        expression = build(site)
        refused = block in REFUSED.get(site.rpartition(".")[2], ())
        if refused or (block == "Fuse" and not made.adapters.specs[site].fusible):
            with pytest.raises(CompileError, match=r"cannot be fused|virtual tokens|prefix acts"):
                made.plan(expression)
            continue
        if block == "Fuse":
            if "f" in made.fusions:
                made.delete_fusion("f")
            fusion(made, expression)
        found = run(architecture, expression)
        assert found.isfinite().all()
        assert differ(found, run(architecture, build(None)) if nothing is None else nothing), site
        if block not in ("Drop", "Parallel"):
            assert differ(found, alone(architecture, site)), site
        if block == "Parallel":
            first, second = found.chunk(2)
            close(first, alone(architecture, site))
            close(second, alone(architecture, BESIDE))
        elif block in ("BatchSplit", "Route"):
            close(found[0], alone(architecture, site)[0])
            close(found[1], alone(architecture, BESIDE)[1])


VIRTUAL = ("prefix_tuning", "prefix_tuning_flat", "prompt_tuning", "mam", "unipelt")
LEGAL_BESIDE_NOTHING: dict[str, tuple[str, ...]] = {
    "Fuse": (
        *VIRTUAL,
        "seq_bn_inv",
        "double_seq_bn_inv",
        "adapter_plus",
        "bitfit",
        "bitfit_partial",
        "layer_aggregation",
    ),
    "Average": (*VIRTUAL, "adapter_plus"),
    "Split": VIRTUAL,
}
"""The presets that cannot stand beside a bottleneck in a block: no increment, another length, another way to close."""
REASONS = "cannot be fused|virtual tokens|prefix acts|make rows longer|makes longer|the children of this"


@cache
def every(architecture: str) -> Model:
    """A model with an adapter of every preset."""
    here = {name.replace("+", "p"): how for name, how in EVERY.items() if (name, architecture) in CELLS}
    return model(architecture, **here, beside="double_seq_bn")


@cache
def by_itself(architecture: str, preset: str) -> Tensor:
    """What an adapter of a preset gives by itself."""
    return out(every(architecture), preset, batch(architecture, padded=True))


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("architecture", ["bert", "gpt2", "t5", "vit"])
def test_methods(architecture: str, block: str) -> None:
    """F10: with every method a block acts, and gives each child its own rows, or is refused when compiled."""
    made, build, inputs = every(architecture), BLOCKS[block], batch(architecture, padded=True)
    beside, route = by_itself(architecture, BESIDE), {"route": ["x", "y"]} if block == "Route" else {}
    nothing = None if block == "Fuse" else out(made, build(None), inputs, **route)
    for preset in made.adapters:
        if preset == BESIDE:
            continue
        expression = build(preset)
        if "f" in made.fusions:
            made.delete_fusion("f")
        if preset in LEGAL_BESIDE_NOTHING.get(block, ()):
            with pytest.raises(CompileError, match=REASONS):
                made.add_fusion(expression) if isinstance(expression, Fuse) else None
                made.plan(expression)
            continue
        if block == "Fuse":
            fusion(made, expression)
        found = out(made, expression, inputs, **route)
        without = out(made, build(None), inputs) if nothing is None else nothing
        assert found.isfinite().all()
        assert found.shape != without.shape or differ(found, without), preset
        tokens = beside.shape[1]
        if block == "Parallel":
            first, second = found.chunk(2)
            close(first, by_itself(architecture, preset))
            close(second[:, :tokens], beside)
        elif block in ("BatchSplit", "Route"):
            close(found[0], by_itself(architecture, preset)[0])
            close(found[1, :tokens], beside[1])
