"""Tensors from a file that may be damaged or hostile.

safetensors files are checked more strictly than the format's own parser does: duplicate keys, absurd shapes
of empty tensors, the number of tensors, and non-finite values are refused. Torch's zip files are read by
`torch.load(weights_only=True)` and in no other way.
"""

from __future__ import annotations

import io
import math
import mmap
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as save_safetensors
from torch import Tensor

from compose.errors import FileError, Problem
from compose.io.jsonfile import LFS_PREFIX, lfs_problem, parse_json
from compose.io.raw import map_bytes, read_bytes

MAX_HEADER_BYTES = 100 * 1000 * 1000
MAX_TENSORS = 100_000
MAX_DIMENSION = 2**40

MASK = ".mask"
"""How the names of bit masks end; no others are of bytes."""

_DTYPES = {"U8": torch.uint8, "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_METADATA = "__metadata__"
_TORCH_MAGIC = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def dump_weights(tensors: Mapping[str, Tensor]) -> bytes:
    """The bytes of a safetensors file; the same tensors always give the same bytes.

    Args:
        tensors: by name, of any shape and floating dtype; views and shared memory are copied.
    """
    plain = {name: tensors[name].detach().cpu().contiguous().clone() for name in sorted(tensors)}
    return save_safetensors(plain, metadata={"format": "pt"})  # more keys would come out in random order


def load_weights(data: mmap.mmap | bytes, where: str | Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, all of them finite.

    Args:
        data: the bytes of the file; the tensors of a mapped one lie in the mapping and keep it.
        where: the path that errors name.

    Raises:
        FileError: everything that is wrong with the tensors at once, or why there are none to look at.
    """
    where = str(where)
    header = _checked_header(data, where)
    start = 8 + int.from_bytes(data[:8], "little")
    writable = bytearray(data) if isinstance(data, bytes) else data
    tensors = {name: _tensor(writable, start, entry) for name, entry in sorted(header.items())}
    check_values(tensors, where)
    return tensors


def _tensor(data: mmap.mmap | bytearray, start: int, entry: Mapping[str, Any]) -> Tensor:
    """A tensor that lies in `data`; `entry` is its row of a checked header."""
    dtype, (begin, end) = _DTYPES[entry["dtype"]], entry["data_offsets"]
    if begin == end:
        return torch.empty(entry["shape"], dtype=dtype)
    if (start + begin) % dtype.itemsize:  # legal in a file, but not for a processor
        data, start, begin, end = bytearray(data[start + begin : start + end]), 0, 0, end - begin
    count = (end - begin) // dtype.itemsize
    return torch.frombuffer(data, dtype=dtype, count=count, offset=start + begin).reshape(entry["shape"])


def load_torch_file(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.bin` file written by `torch.save`; nothing in it is executed.

    Raises:
        FileError: not such a file, something in it but tensors by name, or a tensor that is not finite.
    """
    where = str(path)
    data = read_bytes(path)
    if data.startswith(LFS_PREFIX):
        raise FileError(lfs_problem(where))
    _check_zip(data, where)
    try:
        content = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    except Exception as error:  # unpicklers raise anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise FileError(
            f"not a file of plain tensors: {reason[:200]}",
            where=where,
            why="only tensors by name are read, because a pickle with anything else could run code",
        ) from error
    if not isinstance(content, Mapping):
        raise FileError(f"expected tensors by name, got {type(content).__name__}", where=where)
    problems = [_stored_problem(name, value, where) for name, value in content.items()]
    if found := [problem for problem in problems if problem]:
        raise FileError(found)
    tensors = {str(name): value.detach() for name, value in content.items()}
    check_values(tensors, where)
    return tensors


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, `.bin` or safetensors by its name."""
    return load_torch_file(path) if path.suffix == ".bin" else load_weights(map_bytes(path), path)


def check_values(tensors: Mapping[str, Tensor], where: str) -> None:
    """Refuse tensors that are not floating or not finite.

    Raises:
        FileError: names every such tensor.
    """
    problems = []
    for name, tensor in tensors.items():
        if tensor.dtype == torch.uint8 and name.endswith(MASK):
            continue
        if not tensor.is_floating_point() or tensor.dtype.itemsize < 2:
            problems.append(Problem(f"tensor '{name}' is of {tensor.dtype}, not of floating numbers", where=where))
        elif not bool(torch.isfinite(tensor).all()):
            bad = int((~torch.isfinite(tensor)).sum())
            problems.append(Problem(f"tensor '{name}' has {bad} values that are NaN or infinite", where=where))
    if problems:
        raise FileError(problems)


def _checked_header(data: mmap.mmap | bytes, where: str) -> dict[str, Any]:
    """The header of a safetensors file: each tensor's entry by its name."""
    if data[: len(LFS_PREFIX)] == LFS_PREFIX:
        raise FileError(lfs_problem(where))
    # The length of a header may look like the first bytes of a pickle, but what follows it is a '{'.
    if data[8:9] != b"{" and data[:4].startswith(_TORCH_MAGIC):
        raise FileError(
            "this is a torch file (zip or pickle), not a safetensors file",
            where=where,
            hint="a torch file must be called *.bin; it is then read without running code",
        )
    if len(data) < 8:
        raise FileError(f"cut off: {len(data)} bytes are too few for a safetensors file", where=where)
    length = int.from_bytes(data[:8], "little")
    if length > MAX_HEADER_BYTES:
        raise FileError(f"not a safetensors file: a header of {length:,} bytes", where=where)
    if 8 + length > len(data):
        raise FileError(f"cut off: a header of {length:,} bytes is announced, the file has {len(data):,}", where=where)
    raw = data[8 : 8 + length]
    if not raw.startswith(b"{"):
        raise FileError("not a safetensors file: the header does not begin with '{'", where=where)
    if raw.count(b"{") > MAX_TENSORS + 2:  # before parsing: so many objects would fill the memory
        raise FileError(f"more than {MAX_TENSORS:,} tensors", where=where)
    header = parse_json(raw, where, MAX_HEADER_BYTES)
    metadata = header.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise FileError("the metadata of the header is not a table of strings", where=where)
    problems = []
    spans = []
    for name, entry in header.items():
        reason = _entry_fault(entry)
        if reason:
            problems.append(Problem(f"tensor '{name[:200]}': {reason}", where=where))
        else:
            spans.append((entry["data_offsets"][0], entry["data_offsets"][1], name))
    if not problems:
        position = 0
        for start, end, name in sorted(spans):
            if start != position:
                kind = "overlaps the one before it" if start < position else "leaves a hole before it"
                problems.append(Problem(f"tensor '{name[:200]}' {kind}", where=where))
            position = max(position, end)
        if not problems and position != len(data) - 8 - length:
            kind = "cut off" if position > len(data) - 8 - length else "bytes after the end"
            problems.append(
                Problem(
                    f"{kind}: {position:,} bytes of tensors, {len(data) - 8 - length:,} in the file",
                    where=where,
                )
            )
    if problems:
        raise FileError(problems)
    return header


def _entry_fault(entry: Any) -> str:
    """What is wrong with one tensor's entry in the header, or an empty text."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        return "the header gives it no dtype, shape and data_offsets"
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in _DTYPES:
        return f"dtype {str(entry['dtype'])[:40]} is not one of {', '.join(_DTYPES)}"
    if not _naturals(shape) or len(shape) > 16 or any(size > MAX_DIMENSION for size in shape):
        return f"its shape {str(shape)[:80]} is not a list of sizes"
    if not _naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        return f"its place {str(offsets)[:80]} is not a start and an end"
    if math.prod(size for size in shape if size) > MAX_DIMENSION:
        return f"its shape {shape} is too large"
    size = math.prod(shape) * _DTYPES[entry["dtype"]].itemsize
    if size != offsets[1] - offsets[0]:
        return f"shape {shape} takes {size:,} bytes, the header gives it {offsets[1] - offsets[0]:,}"
    return ""


def _naturals(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _check_zip(data: bytes, where: str) -> None:
    """Refuse compressed members, which torch never writes: a small file could fill the memory."""
    if not data.startswith(b"PK"):
        return
    try:
        members = zipfile.ZipFile(io.BytesIO(data)).infolist()
    except (zipfile.BadZipFile, ValueError, OSError) as error:
        raise FileError(f"a damaged torch file: {error}", where=where) from error
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise FileError("a compressed zip file, which torch does not write", where=where)
    if len(members) > MAX_TENSORS:
        raise FileError(f"more than {MAX_TENSORS:,} tensors", where=where)


def _stored_problem(name: object, value: object, where: str) -> Problem | None:
    if not isinstance(name, str) or not isinstance(value, Tensor):
        return Problem(f"'{str(name)[:200]}' is {type(value).__name__}, not a tensor", where=where)
    if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized:
        return Problem(f"tensor '{name[:200]}' is not a plain tensor", where=where)
    # A stride of 0 makes a tensor of any size out of one stored number.
    if value.numel() * value.dtype.itemsize > value.untyped_storage().nbytes():
        return Problem(f"tensor '{name[:200]}' is larger than what is stored of it", where=where)
    return None
