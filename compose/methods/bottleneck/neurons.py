"""The neurons of a bottleneck: rows of the down-projection, columns of the up-projection."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

DIMENSIONS = {"down.weight": 0, "down.bias": 0, "up.weight": 1}
"""The weights of which every neuron has its share, and in which dimension neurons are counted."""


def of_neurons(scores: Mapping[str, Tensor], sites: Collection[str]) -> dict[str, Tensor]:
    """How much each neuron matters, [rank] by `<layer>.<site>`: the sum over its weights, its bias included.

    Args:
        scores: of single weights, by canonical name.
        sites: where there are neurons, as `<layer>.<site>`: an invertible part has maps of these names too.
    """
    found: dict[str, Tensor] = {}
    for name, score in scores.items():
        site, dimension = _split(name)
        if dimension is not None and site in sites:
            others = [index for index in range(score.dim()) if index != dimension]
            summed = score.sum(others) if others else score
            found[site] = found[site] + summed if site in found else summed
    return found


def chosen(scores: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """The numbers of the `count` best neurons of all sites, at least one at each, in order.

    Args:
        scores: [rank] by site.
        count: at least as many as there are sites.
    """
    # a site's best one is better than any that is not
    raised = {site: score.clone() for site, score in scores.items()}
    for score in raised.values():
        score[score.argmax()] = torch.inf
    flat = torch.cat(list(raised.values()))
    mask = torch.zeros(flat.shape, dtype=torch.bool, device=flat.device)
    mask[flat.topk(count).indices] = True
    pieces = mask.split([score.numel() for score in raised.values()])
    return {site: piece.nonzero().squeeze(1) for site, piece in zip(raised, pieces, strict=True)}


def kept(tensors: Mapping[str, Tensor], neurons: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights, or masks of them, of some neurons.

    Args:
        tensors: by canonical name.
        neurons: their numbers by site.
    """
    found = {}
    for name, tensor in tensors.items():
        site, dimension = _split(name)
        found[name] = (
            tensor if dimension is None or site not in neurons else tensor.index_select(dimension, neurons[site])
        )
    return found


def _split(name: str) -> tuple[str, int | None]:
    """A weight's site, and the dimension in which it has neurons."""
    for end, dimension in DIMENSIONS.items():
        if name.endswith(f".{end}"):
            return name.removesuffix(f".{end}"), dimension
    return "", None
