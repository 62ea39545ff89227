"""AdapterHub's ReFT: the option that its files lack, and projections as it stores them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from compose.errors import FileError, Problem
from compose.methods.reft.orthogonal import orthonormal
from compose.methods.reft.spec import ReftConfig

_INERT = ("output_reft", "dtype")
_PARAMETRIZED = re.compile(r"(.+\.projection)\.(original|base)")


def reft_config(options: Mapping[str, Any], subtract_projection: bool | None, where: str) -> ReftConfig:
    """Our config of a ReFT adapter.

    Args:
        options: those of the file; `subtract_projection` is never among them.
        subtract_projection: what the caller says of it.
        where: the path of the file.

    Raises:
        FileError: if the file does not say what the adapter is, and the caller neither.
        ConfigError: an option that is unknown or out of range.
    """
    if options.get("output_reft", True) is not True:
        raise FileError("output_reft is off: the adapter acts nowhere", where=where)
    if subtract_projection is None and not options.get("orthogonality"):
        raise FileError(
            "this may be NoReFT or DiReFT",
            where=where,
            why="AdapterHub does not write subtract_projection into the file, in which alone they differ",
            hint="subtract_projection=True for NoReFT, subtract_projection=False for DiReFT",
        )
    known = {name: value for name, value in options.items() if name not in _INERT}
    return ReftConfig.make({"subtract_projection": subtract_projection is not False, **known})


def check_unasked(subtract_projection: bool | None, where: str) -> None:
    """FileError: `subtract_projection` is given for something else than AdapterHub's ReFT."""
    if subtract_projection is not None:
        raise FileError(
            "subtract_projection means nothing here",
            where=where,
            why="only of ReFT adapters from AdapterHub the file does not say it",
            hint="leave it out",
        )


def reft_rows(config: ReftConfig) -> tuple[tuple[str, str], ...]:
    """AdapterHub's names of weights and ours, as `names.py` has them; an orthogonal projection has two there."""
    found: list[tuple[str, str]] = []
    for number, unit in enumerate(config.units):
        theirs, ours = f"units.{number}.", f"units.{unit}."
        found += [
            (f"{theirs}learned_source.*", f"{ours}source.*"),
            (f"{theirs}non_linearity.f.**", f"{ours}activation.**"),
        ]
        if config.orthogonality:
            found += [
                (f"{theirs}projection.parametrizations.weight.original", f"{ours}projection.original"),
                (f"{theirs}projection.parametrizations.weight.0.base", f"{ours}projection.base"),
            ]
        else:
            found.append((f"{theirs}projection.weight", f"{ours}projection.weight"))
    return tuple(found)


def plain_projections(placed: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Weights in which the two tensors of each orthogonal projection have become one.

    Args:
        placed: weights by canonical name.
        where: the path of the file.

    Raises:
        FileError: for each projection that lacks one of its two, or whose shapes do not belong together.
    """
    plain: dict[str, Tensor] = {}
    pairs: dict[str, dict[str, Tensor]] = {}
    for name, tensor in placed.items():
        match = _PARAMETRIZED.fullmatch(name)
        if match:
            pairs.setdefault(match[1], {})[match[2]] = tensor
        else:
            plain[name] = tensor
    problems = []
    for name, pair in pairs.items():
        original, base = pair.get("original"), pair.get("base")
        if original is None or base is None:
            lacking = "parametrizations.weight." + ("original" if original is None else "0.base")
            problems.append(Problem(f"'{name}' lacks its '{lacking}'", where=where))
        elif original.dim() != 2 or original.shape[0] > original.shape[1] or base.shape != (original.shape[1],) * 2:
            shapes = f"{tuple(original.shape)} and {tuple(base.shape)}"
            problems.append(Problem(f"'{name}' has tensors of the shapes {shapes}, not (r, h) and (h, h)", where=where))
        else:
            plain[f"{name}.weight"] = _projection(original, base)
    if problems:
        raise FileError(problems)
    return plain


def parametrized_projections(placed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same backwards: weights in which each orthogonal projection is the two tensors that `_projection` reads.

    Args:
        placed: weights by canonical name; rows of projections are made orthonormal, as they act.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in placed.items():
        start = name.removesuffix(".weight")
        if not name.endswith(".projection.weight"):
            found[name] = tensor
            continue
        rank, width = tensor.shape
        tensor = orthonormal(tensor.double()).to(tensor.dtype)
        # For a square one exp(0) is the identity. Else the reflections have zeros below the diagonal: they turn the
        # first r axes around, and so do the signs.
        found[f"{start}.original"] = -torch.eye(rank, width, dtype=tensor.dtype)
        found[f"{start}.base"] = tensor if rank == width else _completed(tensor.mT)
    return found


def _completed(columns: Tensor) -> Tensor:
    """Orthonormal columns [h, r], and as many more as make an orthogonal matrix [h, h] of them."""
    whole = columns.new_zeros(columns.shape[0], columns.shape[0], dtype=torch.float64)
    whole[:, : columns.shape[1]] = columns
    whole[:, columns.shape[1] :] = torch.linalg.qr(columns.double(), mode="complete").Q[:, columns.shape[1] :]
    return whole.to(columns.dtype)


def _projection(original: Tensor, base: Tensor) -> Tensor:
    """What `torch.nn.utils.parametrizations.orthogonal` makes of its two tensors, by its default map.

    A square matrix is base exp(A), A skew-symmetric. For r < h, columns below the diagonal are Householder
    vectors, the diagonal holds signs, and the projection is the first r columns of base times their product.

    Args:
        original: [r, h].
        base: [h, h].

    Returns:
        [r, h], in the type of `original`; computed in float64.
    """
    own, base = original.double(), base.double()
    if own.shape[0] == own.shape[1]:
        lower = own.tril()
        return (base @ torch.matrix_exp(lower - lower.mT)).to(original.dtype)
    vectors = own.mT.tril(-1)
    scales = 2 / (1 + vectors.square().sum(0))
    product = torch.linalg.householder_product(vectors, scales)
    return (base @ (product * own.diagonal().trunc())).mT.to(original.dtype).contiguous()
