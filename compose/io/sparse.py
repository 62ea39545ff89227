"""Weights of which most are zero: what is stored are the others, and a bit for each that says which these are.

Under the name of a weight W lie `W.values`, what is kept in the order of the elements, and `W.mask`, one bit an
element, the first element in the highest bit of the first byte. The manifest's `sparse` has the weights' shapes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from compose.errors import FileError, Problem
from compose.io.weights import MASK, MAX_DIMENSION

VALUES = ".values"

Shapes = dict[str, list[int]]


def packed(tensors: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Shapes]:
    """Weights as they are stored, and the shapes of those that are sparse.

    Args:
        tensors: all weights by name.
        masks: for the sparse ones which elements are kept.
    """
    stored = {name: tensor for name, tensor in tensors.items() if name not in masks}
    for name, mask in masks.items():
        kept = mask.cpu()
        stored[f"{name}{VALUES}"] = tensors[name].detach().cpu()[kept]
        stored[f"{name}{MASK}"] = _bits(kept.flatten())
    return stored, {name: list(tensors[name].shape) for name in sorted(masks)}


def unpacked(stored: Mapping[str, Tensor], shapes: object, where: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The weights and masks of a file.

    Args:
        stored: its tensors by name.
        shapes: what its manifest says under `sparse`; None: nothing is sparse.
        where: the file, for errors.

    Raises:
        FileError: naming every weight whose values, mask and shape do not fit each other.
    """
    tensors = dict(stored)
    masks: dict[str, Tensor] = {}
    problems = []
    if not isinstance(shapes, dict | None):
        raise FileError("'sparse' is not a table of shapes", where=where)
    for name, shape in (shapes or {}).items():
        values, bits = tensors.pop(f"{name}{VALUES}", None), tensors.pop(f"{name}{MASK}", None)
        fault = _fault(shape, values, bits)
        if fault or values is None or bits is None:
            problems.append(Problem(f"the sparse weight '{name[:200]}': {fault}", where=where))
            continue
        mask = _from_bits(bits, math.prod(shape)).view(shape)
        if int(mask.sum()) != len(values):
            problems.append(
                Problem(f"the sparse weight '{name[:200]}': {int(mask.sum())} kept, {len(values)} values", where=where)
            )
            continue
        tensors[name] = torch.zeros(shape, dtype=values.dtype).masked_scatter_(mask, values)
        masks[name] = mask
    problems += [
        Problem(f"tensor '{name[:200]}' is a mask of no sparse weight", where=where)
        for name, tensor in tensors.items()
        if tensor.dtype == torch.uint8
    ]
    if problems:
        raise FileError(problems)
    return tensors, masks


def _fault(shape: object, values: Tensor | None, bits: Tensor | None) -> str:
    """What is wrong with a sparse weight, or an empty text."""
    if not isinstance(shape, list) or not all(type(size) is int and 0 <= size <= MAX_DIMENSION for size in shape):
        return f"its shape {str(shape)[:80]} is not a list of sizes"
    if values is None or bits is None:
        return "its values or its mask are missing"
    if values.dim() != 1 or bits.dim() != 1 or bits.dtype != torch.uint8 or values.dtype == torch.uint8:
        return "its values or its mask are not what they should be"
    count = math.prod(shape)
    if len(bits) != -(-count // 8):
        return f"a mask of {len(bits)} bytes for {count} elements"
    if count % 8 and int(bits[-1]) & (0xFF >> count % 8):
        return "its mask has bits beyond its end"
    return ""


def _bits(mask: Tensor) -> Tensor:
    """Eight elements in a byte."""
    padded = torch.nn.functional.pad(mask.to(torch.uint8), (0, -len(mask) % 8)).view(-1, 8)
    return (padded << torch.arange(7, -1, -1, dtype=torch.uint8)).sum(1, dtype=torch.uint8)


def _from_bits(bits: Tensor, count: int) -> Tensor:
    """The first `count` bits as a mask."""
    apart = (bits.unsqueeze(1) >> torch.arange(7, -1, -1, dtype=torch.uint8)) & 1
    return apart.flatten()[:count].bool()
