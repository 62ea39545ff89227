"""Damaged and hostile files: each is refused by an error that names it, in bounded time and memory."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from compose.errors import FileError
from compose.io import load_adapter, save_adapter, weights
from compose.io.jsonfile import parse_json
from compose.io.weights import dump_weights, load_torch_file, load_weights
from tests.io.folders import adapter


def container(header: object, data: bytes = b"") -> bytes:
    """A safetensors file with any header."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def entry(shape: list[Any], start: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


GOOD = dump_weights({"a": torch.ones(2, 3), "b": torch.zeros(4, dtype=torch.bfloat16)})
LENGTH = 8 + int.from_bytes(GOOD[:8], "little")


def test_a_good_one() -> None:
    assert load_weights(GOOD, "x")["a"].sum() == 6
    assert load_weights(container({"a": entry([2, 0], 0, 0)}), "x")["a"].shape == (2, 0)


def test_truncated_at_every_byte() -> None:
    for size in range(len(GOOD)):
        with pytest.raises(FileError, match=r"some\.safetensors"):
            load_weights(GOOD[:size], "some.safetensors")


def test_every_flipped_bit_of_a_saved_adapter(tmp_path: Path) -> None:
    save_adapter(adapter(), tmp_path)
    path = tmp_path / "adapter.safetensors"
    whole = path.read_bytes()
    random.seed(0)
    length = 8 + int.from_bytes(whole[:8], "little")
    places = [*range(0, length, 7), *random.sample(range(length, len(whole)), 100)]
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << random.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(FileError) as caught:
            load_adapter(tmp_path)
        assert str(path) in str(caught.value)
    path.write_bytes(whole)
    load_adapter(tmp_path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "cut off"),
        (b"1234567", "cut off"),
        (struct.pack("<Q", 2**63) + b"{}", "header of"),
        (struct.pack("<Q", 200_000_000) + b"{}", "header of"),
        (container(b"[]"), "does not begin"),
        (container(b"{" * 100_000), "nested|JSON"),
        (container(b'{"a":' * 90_000 + b"1" + b"}" * 90_000), "nested"),
        (container(b'{"a":[' + b"[" * 90_000 + b"]" * 90_001 + b"}"), "nested"),
        (container(b'{"a": NaN}'), "NaN"),
        (container(b'{"a": ' + b"9" * 10_000 + b"}"), "JSON"),
        (container(b'{"a": \xff}'), "UTF-8"),
        (container(b'{"__metadata__": {"a": "1", "a": "2"}}'), "twice"),
        (container({"__metadata__": {"a": 1}}), "metadata"),
        (container({"a": entry([2**62, 8], 0, 0)}), "sizes|too large"),
        (container({"a": entry([2**62, 0], 0, 0)}), "sizes"),
        (container({"a": entry([2**39, 2**39, 0], 0, 0)}), "too large"),
        (container({"a": entry([-1], 0, 4)}, b"1234"), "sizes"),
        (container({"a": entry([True], 0, 4)}, b"1234"), "sizes"),
        (container({"a": entry([1.0], 0, 4)}, b"1234"), "sizes"),
        (container({"a": entry([1], 0, 8)}, b"12345678"), "4 bytes"),
        (container({"a": entry([1], 4, 0)}, b"1234"), "start and an end"),
        (container({"a": entry([1], 4, 8)}, b"12345678"), "hole"),
        (container({"a": entry([1], 0, 4), "b": entry([1], 0, 4)}, b"1234"), "overlaps"),
        (container({"a": entry([1], 0, 4)}, b"1234extra"), "bytes after the end"),
        (container({"a": entry([1], 0, 4, "I32")}, b"1234"), "dtype"),
        (container({"a": entry([4], 0, 4, "F8_E4M3")}, b"1234"), "dtype"),
        (container({"a": {**entry([1], 0, 4), "more": 1}}, b"1234"), "no dtype, shape"),
        (container({"a": 3}), "no dtype, shape"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n", "Git LFS pointer"),
    ],
)  # fmt: skip
def test_hostile_headers(data: bytes, message: str) -> None:
    with pytest.raises(FileError, match=message) as caught:
        load_weights(data, "some.safetensors")
    assert "some.safetensors" in str(caught.value)


def test_duplicate_tensors() -> None:
    twice = b'{"a": %s, "a": %s}' % ((json.dumps(entry([1], 0, 4)).encode(),) * 2)
    with pytest.raises(FileError, match="'a' occurs twice"):
        load_weights(container(twice, b"1234"), "x")


def test_very_many_tensors_are_refused_before_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    one = json.dumps(entry([0], 0, 0))
    header = "{" + ",".join(f'"{index}":{one}' for index in range(300_000)) + "}"
    monkeypatch.setattr(weights, "parse_json", lambda *_: pytest.fail("so many objects would fill the memory"))
    with pytest.raises(FileError, match="more than 100,000 tensors"):
        load_weights(container(header.encode()), "x")


def test_values_that_are_not_finite() -> None:
    bad = {
        "nan": torch.tensor([1.0, torch.nan]),
        "fine": torch.tensor([1e38, 1e-40]),
        "inf": torch.tensor(torch.inf),
    }
    with pytest.raises(FileError) as caught:
        load_weights(dump_weights(bad), "x")
    assert len(caught.value.problems) == 2
    assert "'nan'" in str(caught.value) and "'inf'" in str(caught.value)


def test_everything_wrong_at_once() -> None:
    header = {"a": entry([1], 0, 4, "I32"), "b": entry([-1], 4, 8), "c": entry([9], 8, 12)}
    with pytest.raises(FileError) as caught:
        load_weights(container(header, b"0" * 12), "x")
    assert len(caught.value.problems) == 3


class Malicious:
    """Would leave a mark if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (Path.touch, (self.path,))


def test_pickles_never_run(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    path = tmp_path / "pytorch_adapter.bin"
    for write in (
        lambda: torch.save({"a": Malicious(mark)}, path),
        lambda: torch.save({"a": Malicious(mark)}, path, _use_new_zipfile_serialization=False),
        lambda: path.write_bytes(pickle.dumps({"a": Malicious(mark)})),
        lambda: torch.save(torch.nn.Linear(2, 2), path),
    ):
        write()
        with pytest.raises(FileError, match=r"pytorch_adapter\.bin"):
            load_torch_file(path)
        with pytest.raises(FileError, match=r"torch file|safetensors"):
            load_weights(path.read_bytes(), "renamed.safetensors")
        assert not mark.exists()


def test_torch_files(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_adapter.bin"
    tied = torch.ones(3)
    torch.save({"a": tied, "b": tied, "c": torch.nn.Parameter(torch.zeros(2))}, path)
    found = load_torch_file(path)
    assert set(found) == {"a", "b", "c"} and not found["c"].requires_grad
    faults: list[tuple[Any, str]] = [
        ({"a": torch.ones(1).expand(2**40)}, "larger than what is stored"),
        ({"a": torch.tensor([torch.nan])}, "NaN"),
        ({"a": torch.tensor([1])}, "int64"),
        ({"a": torch.ones(2).to_sparse()}, "plain tensor"),
        ({"a": "text", "b": 3}, "str, not a tensor"),
        ([torch.ones(2)], "tensors by name"),
        (torch.ones(2), "tensors by name"),
    ]
    for content, message in faults:
        torch.save(content, path)
        with pytest.raises(FileError, match=message):
            load_torch_file(path)
    torch.save({"a": torch.ones(2, 2)}, path)
    whole = path.read_bytes()
    for size in range(0, len(whole), 13):
        path.write_bytes(whole[:size])
        with pytest.raises(FileError, match="pytorch_adapter"):
            load_torch_file(path)
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(FileError, match="LFS"):
        load_torch_file(path)


def test_a_zip_bomb(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 50_000_000)
    path = tmp_path / "pytorch_adapter.bin"
    path.write_bytes(buffer.getvalue())
    with pytest.raises(FileError, match="compressed"):
        load_torch_file(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "not valid JSON"),
        (b"{", r"adapter\.json:1:2"),
        (b"[1]", "expected a JSON object"),
        (b'{"a": 1, "a": 2}', "twice"),
        (b'{"a": Infinity}', "Infinity"),
        (b'{"a": ' + b"[" * 100 + b"]" * 100 + b"}", "nested"),
        (b'{"a": ' + b"[" * 200_000 + b"}", "nested|JSON"),
        (b'{"a": "\xff"}', "UTF-8"),
        (b"version https://git-lfs.github.com/spec/v1\n", "LFS"),
        (b"{" + b" " * 17_000_000 + b"}", "more than|too many"),
        (b'{"kind": "adapter", "version": 2}', "no 'sha256'"),
    ],
)
def test_damaged_manifests(tmp_path: Path, text: bytes, message: str) -> None:
    save_adapter(adapter(), tmp_path)
    (tmp_path / "adapter.json").write_bytes(text)
    with pytest.raises(FileError, match=message) as caught:
        load_adapter(tmp_path)
    assert "adapter.json" in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("kind", "fusion", "'kind' is 'fusion'"),
        ("version", 2, "up to 1"),
        ("version", "1", "not a number"),
        ("name", "../x", "not a legal adapter name"),
        ("name", "x" * 10_000, "not a legal adapter name"),
        ("name", "a\0b", "not a legal adapter name"),
        ("name", "lora,weight", "not a legal adapter name"),
        ("name", None, "name must be a string"),
        ("method", "prompt", "no method or preset 'prompt'"),
        ("method", None, "'method'"),
        ("config", {"reduction_factor": -1, "colour": "red"}, "reduction_factor"),
        ("config", [], "'config' is not an object"),
        ("fingerprint", {"architecture": 3}, "fingerprint is damaged"),
        ("fingerprint", "bert", "fingerprint is not"),
        ("meta", 3, "'meta' is not"),
        ("expression", 3, "'expression'"),
        ("head", 3, "head name must be a string"),
        ("head", "../x", "not a legal head name"),
        ("fingerprnt", None, "there is no key 'fingerprnt' in a manifest of this version"),
        ("children", ["a"], "there is no key 'children'"),
    ],
)
def test_manifests_that_say_something_else(tmp_path: Path, key: str, value: Any, message: str) -> None:
    save_adapter(adapter(), tmp_path)
    path = tmp_path / "adapter.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(FileError, match=message) as caught:
        load_adapter(tmp_path)
    assert "adapter.json" in str(caught.value)


def test_names_that_look_like_something_else(tmp_path: Path) -> None:
    for name in ("lora", "weight", "a.b", "adapters", "-", "a" * 64):
        save_adapter(adapter(name), tmp_path / "f")
        assert load_adapter(tmp_path / "f").name == name
    for name in ("../x", "", "a b", "ü", ".", "..", "a" * 65, "loss", "None"):
        with pytest.raises(FileError):
            save_adapter(adapter(name), tmp_path / "f")
        with pytest.raises(FileError):
            load_adapter(tmp_path / "f", name=name)


def test_tensor_names_are_checked(tmp_path: Path) -> None:
    for name in ("ffn.up.weight", "0.up", "0..up", "x.ffn.up", "0.ffn.up\n", "-1.ffn.up"):
        record = adapter()
        record.tensors[name] = torch.ones(2)
        save_adapter(record, tmp_path)
        with pytest.raises(FileError, match="not named after a layer"):
            load_adapter(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_special_files_do_not_hang(tmp_path: Path) -> None:
    save_adapter(adapter(), tmp_path)
    (tmp_path / "adapter.safetensors").unlink()
    os.mkfifo(tmp_path / "adapter.safetensors")
    with pytest.raises(FileError, match="not a regular file"):
        load_adapter(tmp_path)


def test_json_of_normal_depth() -> None:
    assert parse_json(b'{"a": [1, 2.5, null, "x", {"b": []}]}', "x") == {"a": [1, 2.5, None, "x", {"b": []}]}
