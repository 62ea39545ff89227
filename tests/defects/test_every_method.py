"""What must hold for every method: Average, routed and split rows, branches, files."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from compose.dsl import Average, BatchSplit, Parallel, Route
from compose.errors import FileError
from compose.runtime.model import Model
from tests import tiny
from tests.defects.cases import CELLS, EVERY, batch, differ, head, model, out, row
from tests.laws.worlds import close

cells = pytest.mark.parametrize(("preset", "architecture"), CELLS)
presets = pytest.mark.parametrize("preset", EVERY)


@cache
def world(preset: str, architecture: str) -> Model:
    """A model with two adapters of a preset."""
    return model(architecture, a=EVERY[preset], b=EVERY[preset])


@cells
def test_average_divides_once(preset: str, architecture: str) -> None:
    """Case 2: `Average(a, a)` is a, and so is an Average that gives all the weight to a."""
    made = world(preset, architecture)
    expected = out(made, "a")
    close(out(made, Average("a", "a")), expected)
    close(out(made, Average("a", "b", weights=[1, 0])), expected)
    assert differ(out(made, Average("a", "b")), expected)


@cells
def test_every_row_is_its_own_adapters(preset: str, architecture: str) -> None:
    """Cases 3, 5, 7, P1 and P3: in a mixed batch row i is what its own adapter gives, whatever is active."""
    made, inputs = world(preset, architecture), batch(architecture, padded=True)
    made.activate("a")
    a, b, plain = (out(made, name, inputs) for name in ("a", "b", None))
    assert differ(a, b)
    found = out(made, Route(a="a", b="b", none=None), inputs, route=["b", "a"])
    close(found[0], b[0])
    close(found[1], a[1])
    close(found[:1], out(made, "b", row(inputs, 0)))
    found = out(made, BatchSplit("a", "b", sizes=[1, 1]), inputs)
    close(found[0], a[0])
    close(found[1], b[1])
    found = out(made, Route(a="a", b="b", none=None), inputs, route=["none", "b"])
    close(found[0, : plain.shape[1]], plain[0])
    close(found[1], b[1])


@cells
def test_every_branch_is_its_own_adapters(preset: str, architecture: str) -> None:
    """Cases 5, 6 and 7: in Parallel each branch is what its own adapter gives, the plain backbone's among them."""
    made, inputs = world(preset, architecture), batch(architecture, padded=True)
    plain, a, b = (out(made, name, inputs) for name in (None, "a", "b"))
    passed, first, second = out(made, Parallel(None, "a", "b"), inputs).chunk(3)
    close(first, a)
    close(second, b)
    close(passed[:, : plain.shape[1]], plain)


@presets
def test_another_name_is_the_same_adapter(preset: str, tmp_path: Path) -> None:
    """Cases 10, 21 and F2: under another name an adapter is the same bit for bit, and so is its head."""
    made = model(a=EVERY[preset])
    head(made, "a", labels=2)
    made.save_adapter("a", tmp_path / "a", with_head=True)
    other = tiny.model()
    assert other.load_adapter(tmp_path / "a", name="z", with_head=True) == "z"
    assert other.adapters["z"].config == made.adapters["a"].config
    ours, theirs = made.adapters["a"].tensors(), other.adapters["z"].tensors()
    assert list(ours) == list(theirs) and all(torch.equal(ours[name], theirs[name]) for name in ours)
    with torch.no_grad():
        assert torch.equal(made.plan("a")(**batch())["a"].logits, other.plan("z")(**batch())["z"].logits)


def without(folder: Path, lost: str) -> None:
    """Takes a tensor out of a saved adapter whose checksum is then made to fit."""
    tensors = {name: tensor for name, tensor in load_file(folder / "adapter.safetensors").items() if name != lost}
    save_file(tensors, folder / "adapter.safetensors")
    manifest = json.loads((folder / "adapter.json").read_text())
    manifest["sha256"] = hashlib.sha256((folder / "adapter.safetensors").read_bytes()).hexdigest()
    (folder / "adapter.json").write_text(json.dumps(manifest))


@presets
def test_missing_weights(preset: str, tmp_path: Path) -> None:
    """Cases 10, F3 and P11: a file with a tensor too few is refused by its name, and nothing is registered."""
    made = model(a=EVERY[preset])
    made.save_adapter("a", tmp_path)
    tensors = made.adapters["a"].tensors()
    lost = sorted(tensors)[0]
    without(tmp_path, lost)
    other = tiny.model()
    with pytest.raises(FileError, match="is missing") as caught:
        other.load_adapter(tmp_path)
    assert lost in str(caught.value)
    assert not other.adapters.names and not other.state_dict()
    with pytest.raises(FileError, match="has no weight"):
        made.adapters["a"].load_tensors({**tensors, "0.attn.q.nothing": torch.ones(1)})


@presets
def test_every_tensor_is_stored_once(preset: str, tmp_path: Path) -> None:
    """Cases 21, 22 and 23: a file holds an adapter's tensors and hardly a byte more."""
    made = model(a=EVERY[preset])
    made.save_adapter("a", tmp_path)
    tensors = made.adapters["a"].tensors()
    assert len({tensor.data_ptr() for tensor in tensors.values()}) == len(tensors)
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    assert size <= (tmp_path / "adapter.safetensors").stat().st_size <= size + 200 + 150 * len(tensors)
