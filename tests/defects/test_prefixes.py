"""Defects of AdapterHub and PEFT with prefixes of several lengths."""

from __future__ import annotations

import pytest
import torch

from compose.dsl import BatchSplit, Expression, Fuse, Parallel, Route, Stack
from compose.errors import CompileError
from tests import tiny
from tests.defects.cases import batch, differ, model, out, row
from tests.laws.worlds import close

ADAPTERS = {
    "a": ("prefix_tuning", {"prefix_length": 30, "bottleneck_size": 6}),
    "b": ("prefix_tuning", {"prefix_length": 5, "bottleneck_size": 6}),
    "lora": "lora",
    "bn": "seq_bn",
}


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("architecture", tiny.CONFIGS)
def test_unequal_prefixes(architecture: str, padded: bool) -> None:
    """Case 9: the shorter prefix is masked, not padded with what is seen."""
    made, inputs = model(architecture, **ADAPTERS), batch(architecture, padded)
    long, short = (out(made, name, inputs) for name in ("a", "b"))
    assert differ(long, short)
    close(out(made, Parallel("a", "b"), inputs), torch.cat([long, short]))
    close(out(made, BatchSplit("a", "b", sizes=[1, 1]), inputs), torch.stack([long[0], short[1]]))


@pytest.mark.parametrize("architecture", tiny.CONFIGS)
def test_beside_other_methods(architecture: str) -> None:
    """Case 16: every branch and every row is its own, whatever the methods of the others."""
    made, inputs = model(architecture, **ADAPTERS), batch(architecture, True)
    chosen: list[Expression] = ["lora", "b", None, "bn", Stack("a", "lora", "bn")]
    found = out(made, Parallel(*chosen), inputs).chunk(len(chosen))
    alone = [out(made, expression, inputs) for expression in chosen]
    for left, right in zip(found, alone, strict=True):
        close(left, right)
    for other, expected in zip(("lora", "bn", None), (alone[0], alone[3], alone[2]), strict=True):
        close(out(made, BatchSplit("b", other, sizes=[1, 1]), inputs), torch.stack([alone[1][0], expected[1]]))


@pytest.mark.parametrize("architecture", tiny.CONFIGS)
def test_mixed_batches(architecture: str) -> None:
    """Case P1: each row has the prefix of its own task, and none of its batch mates' matters."""
    made, inputs = model(architecture, **ADAPTERS), batch(architecture, True)
    found = out(made, Route(x="a", y="b", z=None), inputs, route=["y", "x"])
    close(found[[0]], out(made, "b", row(inputs, 0)))
    close(found[[1]], out(made, "a", row(inputs, 1)))


def test_no_fusion_of_prefixes() -> None:
    """Case 16: a Fuse of what has no increment is refused when it is compiled."""
    made = model("bert", **ADAPTERS)
    with pytest.raises(CompileError, match="'a' cannot be fused"):
        made.add_fusion(Fuse("a", "bn"))
