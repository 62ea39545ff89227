"""Weights by canonical name, and the strict loading of them: all or nothing."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from compose.errors import FileError, Problem

SHARED_PREFIX = "shared."
"""Stands before the names of weights that all parts of an adapter share: `shared.a`."""

SITE_MARK = ":"
"""Stands for the dots of a site's name in module paths, where torch allows none."""


def key_of(layer: int, site: str) -> str:
    """The name of a (layer, site) among a module's children."""
    return f"{layer}.{site}".replace(".", SITE_MARK)


def canonical(parts: nn.ModuleDict) -> dict[str, Tensor]:
    """All weights and buffers of parts by canonical name, `<layer>.<site>.<weight>`.

    Args:
        parts: modules by `key_of`.

    Returns:
        Detached aliases: writing to them writes to the parts.
    """
    return {
        f"{key.replace(SITE_MARK, '.')}.{name}": tensor.detach()
        for key, part in parts.items()
        for name, tensor in part.state_dict().items()
    }


def load_strictly(own: Mapping[str, Tensor], given: Mapping[str, Tensor], what: str) -> None:
    """Copy weights in place, after checking that every one fits; nothing is changed otherwise.

    Args:
        own: the weights to overwrite, by name.
        given: the weights to take, by name; dtype and device may differ.
        what: what is being loaded, for the error.

    Raises:
        FileError: naming all that is missing, unexpected, misshapen or not finite.
    """
    problems = [
        Problem(f"{what}: the weight {name!r} of shape {tuple(own[name].shape)} is missing", where=name)
        for name in own
        if name not in given
    ]
    problems += [
        Problem(f"{what} has no weight {name!r}", where=name, got=name, legal=tuple(own))
        for name in given
        if name not in own
    ]
    for name, tensor in given.items():
        if name not in own:
            continue
        if tensor.shape != own[name].shape:
            problems.append(
                Problem(f"shape {tuple(tensor.shape)} where {tuple(own[name].shape)} is needed", where=name)
            )
        elif not torch.isfinite(tensor).all():
            problems.append(Problem("holds values that are not finite", where=name))
    if problems:
        raise FileError(problems)
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(given[name])
