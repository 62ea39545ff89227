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
from tests.defects.cases import batch, differ, fusion, model, out
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
        assert differ(found, run(architecture, build(None))), site
        if block not in ("Drop", "Parallel"):
            assert differ(found, alone(architecture, site)), site
        if block == "Parallel":
            first, second = found.chunk(2)
            close(first, alone(architecture, site))
            close(second, alone(architecture, BESIDE))
        elif block in ("BatchSplit", "Route"):
            close(found[0], alone(architecture, site)[0])
            close(found[1], alone(architecture, BESIDE)[1])


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "t5", "vit"])
@pytest.mark.parametrize("block", BLOCKS)
def test_cells_of_adapters_that_close(architecture: str, block: str) -> None:
    """F10: an adapter that closes its site itself works, or is refused where it meets one that does not."""
    made = model(architecture, plus="adapter_plus", beside="double_seq_bn")
    expression = BLOCKS[block]("plus")
    if isinstance(expression, Fuse):
        fusion(made, expression)
    if block in ("Fuse", "Average"):
        with pytest.raises(CompileError, match=f"the children of this {block} close"):
            made.plan(expression)
        return
    route = {"route": ["x", "y"]} if block == "Route" else {}
    inputs = batch(architecture, padded=True)
    found = out(made, expression, inputs, **route)
    assert differ(found, out(made, BLOCKS[block](None), inputs, **route))
