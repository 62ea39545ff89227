"""LoRAs by their products: side by side, and the nearest one of a given rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

Pair = tuple[Tensor, Tensor]
"""The factors b [width_out, rank] and a [rank, width_in] of an increment b @ a of a map's weight."""


def delta_parts(tensors: Mapping[str, Tensor], scale: float) -> dict[str, Pair]:
    """The factors of a LoRA by site, its scaling in the first one.

    Args:
        tensors: its weights by canonical name, `<layer>.<site>.a` and `.b`.
        scale: its scaling.
    """
    sites = dict.fromkeys(name.rpartition(".")[0] for name in tensors)
    return {site: (scale * tensors[f"{site}.b"].double(), tensors[f"{site}.a"].double()) for site in sites}


def of_deltas(parts: Mapping[str, Pair]) -> dict[str, Tensor]:
    """The products, [width_out, width_in] by site."""
    return {site: b @ a for site, (b, a) in parts.items()}


def as_factors(deltas: Mapping[str, Tensor]) -> dict[str, Pair]:
    """Dense increments as products: with the identity."""
    return {site: (delta, torch.eye(delta.shape[1]).to(delta)) for site, delta in deltas.items()}


def concatenated(parts: Sequence[Mapping[str, Pair]], weights: Sequence[float]) -> dict[str, Pair]:
    """Factors whose product is the weighted sum of the products: the factors of all side by side."""
    return {
        site: (
            torch.cat([weight * part[site][0] for part, weight in zip(parts, weights, strict=True)], dim=1),
            torch.cat([part[site][1] for part in parts], dim=0),
        )
        for site in parts[0]
    }


def truncated(b: Tensor, a: Tensor, rank: int) -> Pair:
    """The factors of a rank whose product is nearest to b @ a: its largest singular values.

    The product is never made: the triangles of two QR decompositions have its singular values.
    """
    left, upper = torch.linalg.qr(b)
    right, lower = torch.linalg.qr(a.T)
    u, values, v = torch.linalg.svd(upper @ lower.T, full_matrices=False)
    kept = min(rank, len(values))
    roots = values[:kept].sqrt()
    found_b, found_a = left @ u[:, :kept] * roots, roots.unsqueeze(1) * (v[:kept] @ right.T)
    spare = rank - kept  # of a rank above what the maps can have
    if spare:
        found_b = torch.cat([found_b, found_b.new_zeros(len(found_b), spare)], dim=1)
        found_a = torch.cat([found_a, found_a.new_zeros(spare, found_a.shape[1])], dim=0)
    return found_b, found_a
