"""What AdapterHub gets wrong with ReFT. Case numbers are those of the list of its defects."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import compose
from compose.dsl import BatchSplit, Parallel, Route, Split
from compose.errors import FileError
from tests import tiny
from tests.defects.cases import batch, differ, model, out
from tests.laws.worlds import close

PRESETS = ("loreft", "noreft", "direft")


@pytest.mark.parametrize("architecture", tiny.CONFIGS)
@pytest.mark.parametrize("preset", PRESETS)
def test_every_branch_and_every_row_has_its_own(preset: str, architecture: str) -> None:
    """Case 5: each adapter of a Parallel, BatchSplit or Route acts, not the first one alone."""
    options = {"suffix_positions": 2, "r": 2}
    made = model(architecture, a=(preset, options), b=(preset, options))
    inputs = batch(architecture, padded=True)
    a, b = out(made, "a", inputs), out(made, "b", inputs)
    assert differ(a, b)
    first, second = out(made, Parallel("a", "b"), inputs).chunk(2)
    close(first, a)
    close(second, b)
    for found in (
        out(made, BatchSplit("a", "b", sizes=[1, 1]), inputs),
        out(made, Route(x="a", y="b"), inputs, route=["x", "y"]),
    ):
        close(found[0], a[0])
        close(found[1], b[1])
    if architecture != "t5":  # whose stacks have different numbers of tokens
        close(out(made, Split("a", "a", sizes=[1, None]), inputs), a)


@pytest.mark.parametrize("preset", PRESETS)
def test_files_hold_the_parameters_and_no_more(preset: str, tmp_path: Path) -> None:
    """Case 23: a file grows with the rank, not with the square of the width."""
    made = compose.attach(tiny.backbone("bert", 2, torch.float32))
    adapter = made.add_adapter("a", preset, r=4)
    made.save_adapter("a", tmp_path)
    size = 4 * sum(p.numel() for p in adapter.parameters())
    assert (tmp_path / "adapter.safetensors").stat().st_size < size + 4096
    assert adapter.tensors().keys() == {name for name, _ in _named(adapter)}


def _named(adapter: torch.nn.Module) -> list[tuple[str, torch.nn.Parameter]]:
    return [(name.removeprefix("parts.").replace(":", "."), p) for name, p in adapter.named_parameters()]


@pytest.mark.parametrize("preset", PRESETS)
def test_saved_and_loaded_it_is_the_same(preset: str, tmp_path: Path) -> None:
    """F2: all that changes the output is in the file, subtract_projection too; after training, bit for bit."""
    made = model("bert", 2, a=(preset, {"r": 3, "suffix_positions": 1}))
    made.train_only("a")
    optimizer = torch.optim.AdamW(made.adapters["a"].parameters(), lr=0.1)
    made.train()
    for _ in range(3):
        made.plan("a").states(**batch()).last_hidden_state.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    made.eval()
    expected = out(made, "a")
    made.save_adapter("a", tmp_path / "first")
    other = tiny.model()
    other.load_adapter(tmp_path / "first")
    assert other.adapters["a"].config == made.adapters["a"].config
    assert torch.equal(out(other, "a"), expected)
    other.save_adapter("a", tmp_path / "second")
    for file in ("adapter.json", "adapter.safetensors"):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()
    with pytest.raises(FileError, match="subtract_projection means nothing here"):
        tiny.model().load_adapter(tmp_path / "first", subtract_projection=True)


def test_adapterhubs_files_do_not_say_which_it_is(tmp_path: Path) -> None:
    """F2: AdapterHub saves NoReFT and DiReFT alike, so whoever loads has to say which it is; we write no DiReFT so."""
    made = model("bert", 2, a="noreft", direft="direft")
    with pytest.raises(FileError, match="AdapterHub's format cannot say subtract_projection=False"):
        made.save_adapter("direft", tmp_path / "direft", format="adapterhub")
    made.save_adapter("a", tmp_path / "a", format="adapterhub")
    other = tiny.model()
    with pytest.raises(FileError, match="this may be NoReFT or DiReFT"):
        other.load_adapter(tmp_path / "a")
    assert not other.adapters.names
    for said, name in ((True, "noreft"), (False, "direft")):
        other.load_adapter(tmp_path / "a", name=name, subtract_projection=said)
    close(out(other, "noreft"), out(made, "a"))
    made.adapters["direft"].load_tensors(made.adapters["a"].tensors())
    close(out(other, "direft"), out(made, "direft"))
