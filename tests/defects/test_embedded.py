"""AdapterHub's defects with prompts and invertible adapters: cases 2, 5, 6 and 10."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from compose.dsl import Average, BatchSplit, Parallel
from compose.errors import FileError
from tests import tiny
from tests.defects.cases import batch, differ, head, model, out
from tests.laws.worlds import close

PRESETS = ("prompt_tuning", "seq_bn_inv", "double_seq_bn_inv")


@pytest.mark.parametrize("preset", PRESETS)
def test_average_divides_once(preset: str) -> None:
    """Case 2."""
    made = model(a=preset, b=preset)
    expected = out(made, "a")
    close(out(made, Average("a", "a")), expected)
    close(out(made, Average("a", "b", weights=[1, 0])), expected)
    assert differ(out(made, Average("a", "b")), expected)


@pytest.mark.parametrize("architecture", tiny.CONFIGS)
def test_each_branch_has_its_own_prompt(architecture: str) -> None:
    """Case 5: also of several lengths, in Parallel and BatchSplit."""
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
    """Case 6."""
    made = model(architecture, a="seq_bn_inv", b="seq_bn_inv", c=("seq_bn_inv", {"inv_adapter": "glow"}), d="seq_bn")
    inputs = batch(architecture, padded=True)
    for name, found in zip("abcd", out(made, Parallel(*"abcd"), inputs).chunk(4), strict=True):
        close(found, out(made, name, inputs))


@pytest.mark.parametrize("preset", PRESETS)
def test_another_name_is_the_same_adapter(preset: str, tmp_path: Path) -> None:
    """Case 10: bit for bit, with its head; what is missing or unexpected is an error."""
    made = model(a=preset)
    head(made, "a", labels=2)
    made.save_adapter("a", tmp_path / "a", with_head=True)
    other = tiny.model()
    assert other.load_adapter(tmp_path / "a", name="z", with_head=True) == "z"
    ours, theirs = made.adapters["a"].tensors(), other.adapters["z"].tensors()
    assert list(ours) == list(theirs) and all(torch.equal(ours[name], theirs[name]) for name in ours)
    with torch.no_grad():
        assert torch.equal(made.plan("a")(**batch())["a"].logits, other.plan("z")(**batch())["z"].logits)
    with pytest.raises(FileError, match="missing"):
        made.adapters["a"].load_tensors(dict(list(ours.items())[1:]))
