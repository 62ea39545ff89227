"""Several parts at one site, under one name."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import cast

import torch
from torch import Tensor, nn

from compose.methods.linear_map import LinearMap
from compose.methods.part import Context, Part


class PartsInTurn(Part):
    """e(y; c) = e_n(... e_1(y; c) ...; c).

    Args:
        parts: in the order in which they act.
    """

    has_increment = False
    reads_output = True  # one of its parts may

    def __init__(self, parts: Sequence[Part]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def start(self, map: LinearMap) -> None:
        """Each takes what it takes from the map."""
        for part in self.parts:
            cast(Part, part).start(map)

    def forward(self, y: Tensor, context: Context) -> Tensor:
        """Each on the result of the one before."""
        for part in self.parts:
            y = part(y, context)
        return y

    @classmethod
    def grouped(cls, parts: Sequence[PartsInTurn], ys: Tensor, context: Context) -> Tensor:
        """n calls, since nothing is known of what is inside; see `Part.grouped`."""
        contexts = [context.each(itemgetter(index)) for index in range(len(parts))]
        return torch.stack([part(y, own) for part, y, own in zip(parts, ys, contexts, strict=True)])
