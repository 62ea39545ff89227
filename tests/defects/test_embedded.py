"""AdapterHub's defects with prompts and invertible adapters."""

from __future__ import annotations

import pytest

from compose.dsl import BatchSplit, Parallel
from tests import tiny
from tests.defects.cases import batch, model, out
from tests.laws.worlds import close


@pytest.mark.parametrize("architecture", tiny.CONFIGS)
def test_each_branch_has_its_own_prompt(architecture: str) -> None:
    """Case 5: in Parallel and BatchSplit, of several lengths too."""
    lengths = {"a": 10, "b": 4}
    made = model(architecture, **{name: ("prompt_tuning", {"prompt_length": n}) for name, n in lengths.items()})
    inputs = batch(architecture, padded=True)
    branches = out(made, Parallel("a", "b"), inputs).chunk(2)
    rows = out(made, BatchSplit("a", "b", sizes=[1, 1]), inputs)
    for row, (name, found) in enumerate(zip(lengths, branches, strict=True)):
        alone = out(made, name, inputs)
        own = 6 if architecture == "t5" else (17 if architecture == "vit" else 8) + lengths[name]
        assert alone.shape[1] == own
        close(found[:, :own], alone)
        close(rows[row, :own], alone[row])


@pytest.mark.parametrize("architecture", tiny.CONFIGS)
def test_each_branch_has_its_own_invertible_part(architecture: str) -> None:
    """Case 6: NICE and GLOW, and none at all, side by side."""
    made = model(architecture, a="seq_bn_inv", b="seq_bn_inv", c=("seq_bn_inv", {"inv_adapter": "glow"}), d="seq_bn")
    inputs = batch(architecture, padded=True)
    for name, found in zip("abcd", out(made, Parallel(*"abcd"), inputs).chunk(4), strict=True):
        close(found, out(made, name, inputs))
