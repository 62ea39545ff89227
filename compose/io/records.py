"""What the files hold, before it becomes modules: adapters, fusions, heads and compositions as records."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from compose.dsl import Expression, name_problem
from compose.errors import ComposeError, FileError, Problem
from compose.heads.spec import HeadConfig
from compose.methods.config import Config
from compose.methods.fusion.spec import FusionOptions

if TYPE_CHECKING:
    from torch import Tensor

    from compose.io.fingerprint import Fingerprint


@dataclass
class HeadRecord:
    """A head.

    Args:
        name: its name.
        config: its config.
        tensors: its weights by the names that `Head.tensors` gives.
        fingerprint: the backbone it was trained over, if the file says.
        meta: what else the file says, as plain JSON values.
    """

    name: str
    config: HeadConfig
    tensors: dict[str, Tensor]
    fingerprint: Fingerprint | None = None
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass
class AdapterRecord:
    """An adapter.

    Args:
        name: its name.
        config: the config of its method.
        tensors: its weights by canonical name, `layer.site.parameter` (`3.attn.q.a`), or `shared.parameter`.
        head: the head that lies in its folder.
        fingerprint: the backbone it was trained over, if the file says.
        meta: what else the file says, as plain JSON values.
        expression: the text of the expression that it was trained in.
        masks: of a sparse adapter, for weights by canonical name which elements are kept; the others are zero.
    """

    name: str
    config: Config
    tensors: dict[str, Tensor]
    head: HeadRecord | None = None
    fingerprint: Fingerprint | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    expression: str | None = None
    masks: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class FusionRecord:
    """A fusion.

    Args:
        name: its own name.
        config: its config.
        children: the names of the adapters that it was made for, in order.
        tensors: its weights by canonical name, `layer.site.matrix.parameter` (`3.ffn.query.weight`).
        fingerprint: the backbone it was trained over, if the file says.
        meta: what else the file says, as plain JSON values.
    """

    name: str
    config: FusionOptions
    children: tuple[str, ...]
    tensors: dict[str, Tensor]
    fingerprint: Fingerprint | None = None
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass
class CompositionRecord:
    """An expression with everything that it names.

    Args:
        expression: the expression.
        adapters: its adapters by name.
        fusions: its fusions by name.
        heads: its heads by name.
        backbone: how to get the backbone (a name, a hub id, a folder), if that is known.
        meta: what else is to be kept, as plain JSON values.
    """

    expression: Expression
    adapters: dict[str, AdapterRecord] = field(default_factory=dict)
    fusions: dict[str, FusionRecord] = field(default_factory=dict)
    heads: dict[str, HeadRecord] = field(default_factory=dict)
    backbone: str | None = None
    meta: dict[str, Any] = field(default_factory=dict)


def fusion_sites(tensors: Mapping[str, Tensor]) -> dict[tuple[int, str], int]:
    """The (layer, site) pairs at which a fusion has weights, and how wide they are, 0 if they do not say.

    >>> import torch
    >>> fusion_sites({"3.cross.attn.query.weight": torch.zeros(4, 4)})
    {(3, 'cross.attn'): 4}
    """
    found: dict[tuple[int, str], int] = {}
    for name, tensor in sorted(tensors.items()):
        match = re.fullmatch(r"(\d+)\.(.+?)\.(?:(?:query|key|value)\.\w+|temperature|scales)", name)
        if match:  # a temperature, or one scale for each child, says no width
            site = int(match[1]), match[2]
            width = tensor.shape[-1] if tensor.dim() and tensor.shape[-1] > 1 else 0
            found[site] = max(found.get(site, 0), width)
    return found


def as_file_error(error: ComposeError, where: str) -> FileError:
    """An error in what a file says, as an error of that file."""
    return FileError(
        [
            replace(
                problem,
                where=where,
                what=f"{problem.where}: {problem.what}" if problem.where not in ("", where) else problem.what,
            )
            for problem in error.problems
        ]
    )


def check_record_name(name: object, what: str, where: str) -> str:
    """A name from a file or a call, if it is legal.

    Raises:
        FileError: it is not.
    """
    problem = name_problem(name, what)
    if problem is not None:
        raise FileError(
            Problem(problem.what, where=where, why=problem.why, hint="load it under another name with name=")
        )
    return str(name)
