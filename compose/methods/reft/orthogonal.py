"""A projection whose rows stay orthonormal while it is trained."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from compose.methods.watched import Watched


def orthonormal(weight: Tensor) -> Tensor:
    """The rows of a matrix made orthonormal, each by what the ones before it left (Gram-Schmidt, by QR).

    A matrix whose rows are orthonormal is left as it is, up to rounding: no row changes its sign.

    Args:
        weight: [r, width], r at most width, rows linearly independent.

    Returns:
        [r, width].
    """
    q, r = torch.linalg.qr(weight.mT)
    signs = torch.where(r.diagonal() < 0, -1.0, 1.0).to(q.dtype)
    return (q * signs).mT


class _Made(NamedTuple):
    """A projection, and the weight that it was made from."""

    source: Watched
    projection: Tensor


class Projection(nn.Module):
    """A projection onto r directions, [r, width].

    Where it is orthogonal, the weight is any matrix, and the projection what `orthonormal` makes of it: every
    orthogonal projection can be reached, no step of an optimizer leads out of them, and nothing but the weight
    has to be saved. Gradients go through the decomposition. In evaluation its result is kept until the weight
    changes. (Torch's own parametrization keeps a square matrix of width x width beside the weight.)

    Args:
        r, width: its shape.
        orthogonal: whether its rows are kept orthonormal.
    """

    def __init__(self, r: int, width: int, orthogonal: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(r, width))
        self.orthogonal = orthogonal
        self._made: _Made | None = None

    def __getstate__(self) -> dict[str, object]:
        """What a copy or a pickle takes over: not the result that is kept."""
        return {**self.__dict__, "_made": None}

    def matrix(self) -> Tensor:
        """The projection itself, [r, width]."""
        if not self.orthogonal:
            return self.weight
        recorded = torch.is_grad_enabled() and self.weight.requires_grad
        if recorded or torch.compiler.is_compiling() or self.weight.is_inference():
            return orthonormal(self.weight)
        made = self._made
        if made is None or made.source.owner() is not self.weight or not made.source.unchanged():
            with torch.inference_mode(False), torch.no_grad():  # what is made here may meet gradients later
                made = self._made = _Made(Watched.of(self.weight), orthonormal(self.weight))
        return made.projection

    @torch.no_grad()
    def straighten(self) -> None:
        """Puts the projection itself in the weight's place, if it is orthogonal."""
        if self.orthogonal:
            self.weight.copy_(orthonormal(self.weight))
