"""Which tokens a row has, where something puts more among them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class Tokens(NamedTuple):
    """The tokens of some rows.

    Args:
        mask: [rows, tokens], 0 where a token is padding.
        places: [rows, tokens of the text], where each of the text's own tokens is.
        positions: [rows, tokens], the position of each; None: as they stand.
    """

    mask: Tensor
    places: Tensor
    positions: Tensor | None = None

    def each(self, change: Callable[[Tensor], Tensor]) -> Tokens:
        """The same of other rows."""
        return Tokens(
            change(self.mask), change(self.places), None if self.positions is None else change(self.positions)
        )

    def longer(self, place: int, count: int) -> Tokens:
        """With `count` more before the token at `place`, which is 0 or 1; positions move on."""
        mask = inserted(self.mask, self.mask.new_ones(len(self.mask), count), place)
        places = self.places + count * (self.places >= place)
        if self.positions is None:
            return Tokens(mask, places)
        start = self.positions[:, place : place + 1] if place < self.positions.shape[1] else self.positions[:, -1:] + 1
        own = start + torch.arange(count, device=start.device)
        rest = self.positions[:, place:] + count
        return Tokens(mask, places, torch.cat([self.positions[:, :place], own, rest], dim=1))

    def padded(self, tokens: int) -> Tokens:
        """With padding at the end, up to a number of tokens."""
        positions = None if self.positions is None else padded(self.positions, tokens)
        return Tokens(padded(self.mask, tokens), self.places, positions)


def inserted(tensor: Tensor, more: Tensor, place: int) -> Tensor:
    """[rows, tokens, ...] with `more` before the token at `place`, or at the end of shorter rows."""
    if not place:
        return torch.cat([more, tensor], dim=1)
    return torch.cat([tensor[:, :place], more, tensor[:, place:]], dim=1)


def padded(tensor: Tensor, tokens: int) -> Tensor:
    """[rows, tokens, ...] with zeros at the end of each row, up to a number of tokens."""
    more = tokens - tensor.shape[1]
    if not more:
        return tensor
    return functional.pad(tensor, (*(0, 0) * (tensor.dim() - 2), 0, more))
