"""Weights are mapped into memory: what is loaded is read from the disk once, and a new version harms no old one."""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest
import torch

from compose.errors import FileError
from compose.io import native
from compose.io.raw import map_bytes
from compose.io.view import View
from compose.io.weights import dump_weights, load_weights, read_weights
from compose.methods.registry import make_config
from tests import tiny
from tests.io import folders

COUNTERS = Path("/proc/self/io")


def read_so_far() -> int:
    """The bytes that this process has asked the system to read; pages of mapped files are not among them."""
    return int(COUNTERS.read_text("ascii").split()[1])


@pytest.mark.skipif(not COUNTERS.exists(), reason="this system does not count")
def test_loading_copies_nothing_through_read(tmp_path: Path) -> None:
    model = tiny.model(dtype=torch.float32)
    model.add_adapter("large", "seq_bn", bottleneck_size=4096)
    model.save_adapter("large", tmp_path)
    weights = (tmp_path / "adapter.safetensors").stat().st_size
    model.load_adapter(tmp_path, name="first")  # imports what it needs
    before = read_so_far()
    model.load_adapter(tmp_path, name="second")
    assert read_so_far() - before < weights / 10


def test_the_checksum_and_the_tensors_look_at_one_mapping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    native.save_adapter(folders.adapter(), tmp_path)
    mapped: list[str] = []
    real = View.map

    def counting(view: View, name: str) -> object:
        mapped.append(name)
        return real(view, name)

    monkeypatch.setattr(View, "map", counting)
    record = native.load_adapter(tmp_path)
    assert mapped == ["adapter.safetensors"]
    for name, tensor in folders.adapter().tensors.items():
        assert torch.equal(record.tensors[name], tensor)


def test_a_record_outlives_the_next_version(tmp_path: Path) -> None:
    native.save_adapter(folders.adapter(seed=0), tmp_path)
    first = native.load_adapter(tmp_path)
    native.save_adapter(folders.adapter(seed=1), tmp_path)
    second = native.load_adapter(tmp_path)
    for name, tensor in folders.adapter(seed=0).tensors.items():
        assert torch.equal(first.tensors[name], tensor)
        assert not torch.equal(second.tensors[name], tensor)


def test_writing_to_loaded_tensors_leaves_the_file(tmp_path: Path) -> None:
    path = tmp_path / "some.safetensors"
    path.write_bytes(dump_weights({"a": torch.ones(3)}))
    before = path.read_bytes()
    read_weights(path)["a"].fill_(7)
    assert path.read_bytes() == before


def test_a_model_does_not_lie_in_the_file(tmp_path: Path) -> None:
    model = tiny.model(dtype=torch.float32)
    tiny.randomize(model.add_adapter("a", make_config("seq_bn")))
    model.save_adapter("a", tmp_path)
    model.load_adapter(tmp_path, name="b")
    path = tmp_path / "adapter.safetensors"
    with open(path, "r+b") as file:
        file.seek(-64, 2)
        file.write(b"\0" * 64)
    for one, other in zip(model.adapters["a"].parameters(), model.adapters["b"].parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_tensors_at_odd_places(dtype: torch.dtype) -> None:
    data = dump_weights({"a": torch.arange(5).to(dtype), "b": torch.zeros(0, 3, dtype=dtype)})
    length = int.from_bytes(data[:8], "little")
    odd = (length + 1).to_bytes(8, "little") + data[8 : 8 + length] + b" " + data[8 + length :]
    for each in (data, odd):
        found = load_weights(each, "x")
        assert found["a"].tolist() == [0, 1, 2, 3, 4] and found["a"].dtype == dtype
        assert found["b"].shape == (0, 3)


def test_what_cannot_be_mapped(tmp_path: Path) -> None:
    empty = tmp_path / "empty.safetensors"
    empty.touch()
    assert map_bytes(empty) == b""
    with pytest.raises(FileError, match="0 bytes are too few"):
        read_weights(empty)
    with pytest.raises(FileError, match="no such file"):
        map_bytes(tmp_path / "none")
    with pytest.raises(FileError, match="cannot be read"):
        map_bytes(tmp_path)
    empty.write_bytes(b"1234")
    assert isinstance(map_bytes(empty, 4), mmap.mmap)
    with pytest.raises(FileError, match="4 bytes are more than 3"):
        map_bytes(empty, 3)
