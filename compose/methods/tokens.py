"""Which tokens a row has, where something puts more among them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class Tokens(NamedTuple):
    """The tokens of some rows.

    Args:
        mask: [rows, tokens], 0 where a token is padding.
        places: [rows, tokens of the text], where each of the text's own tokens is.
        ends: [rows], how many tokens each row has, the call's own padding included.
        seeing: [rows, tokens], 1 where a token attends to the call's padding too; None: none does.
        positions: [rows, tokens], the position of each; None: as they stand.
    """

    mask: Tensor
    places: Tensor
    ends: Tensor
    seeing: Tensor | None = None
    positions: Tensor | None = None

    @classmethod
    def of(cls, mask: Tensor, positions: Tensor | None = None, seeing: bool = False) -> Tokens:
        """Those of a text.

        Args:
            mask: [rows, tokens], 0 where a token is padding.
            positions: [rows, tokens], or one row for all; None: as they stand.
            seeing: some tokens that will come in between attend to padding.
        """
        rows, tokens = mask.shape
        places = torch.arange(tokens, device=mask.device).expand(rows, -1)
        ends = torch.full((rows,), tokens, device=mask.device)
        given = None if positions is None else positions.expand(rows, -1)
        return cls(mask, places, ends, torch.zeros_like(mask) if seeing else None, given)

    def each(self, change: Callable[[Tensor], Tensor]) -> Tokens:
        """The same of other rows."""
        return Tokens.made_of(lambda tensors: change(tensors[0]), self)

    @classmethod
    def made_of(cls, combine: Callable[[Sequence[Tensor]], Tensor], *every: Tokens) -> Tokens:
        """Those of several sets of rows in one, tensor by tensor; what one of them lacks, the result lacks."""

        def combined(tensors: Sequence[Tensor | None]) -> Tensor | None:
            given = [tensor for tensor in tensors if tensor is not None]
            return combine(given) if len(given) == len(every) else None

        return cls(
            mask=combine([one.mask for one in every]),
            places=combine([one.places for one in every]),
            ends=combine([one.ends for one in every]),
            seeing=combined([one.seeing for one in every]),
            positions=combined([one.positions for one in every]),
        )

    def longer(self, place: int, count: int, seeing: bool = False) -> Tokens:
        """With more tokens; positions move on.

        Args:
            place: before which token they come, 0 or 1.
            count: how many.
            seeing: as many of the first tokens attend to padding.
        """
        own = self.mask.new_ones(len(self.mask), count)
        marks = self.seeing
        if marks is not None:  # AdapterHub widens its masks at the front, wherever a prompt is put
            marks = inserted(marks, own if seeing else torch.zeros_like(own), 0 if seeing else place)
        return Tokens(
            mask=inserted(self.mask, own, place),
            places=self.places + count * (self.places >= place),
            ends=self.ends + count,
            seeing=marks,
            positions=None if self.positions is None else _moved_on(self.positions, place, count),
        )

    def padded(self, tokens: int) -> Tokens:
        """With padding at the end, up to a number of tokens."""
        return self._replace(
            mask=padded(self.mask, tokens),
            seeing=None if self.seeing is None else padded(self.seeing, tokens),
            positions=None if self.positions is None else padded(self.positions, tokens),
        )

    def attended(self, dtype: torch.dtype, raised: float = 0.0) -> Tensor:
        """What is added to attention scores where tokens differ in what they see, [rows, 1, tokens, tokens].

        Args:
            dtype: of the scores.
            raised: what scores of others to those that see padding get, if anything of the batch is padding.
        """
        assert self.seeing is not None
        there = torch.arange(self.mask.shape[1], device=self.mask.device) < self.ends.unsqueeze(1)
        seen = (self.mask != 0).unsqueeze(1) | (self.seeing != 0).unsqueeze(2) & there.unsqueeze(1)
        added = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
        if raised:
            is_padded = ((self.mask == 0) & there).any()
            to_prompts = (self.seeing != 0).unsqueeze(1) & (self.seeing == 0).unsqueeze(2)
            added = added + raised * (to_prompts & is_padded)
        return added.masked_fill(~seen, torch.finfo(dtype).min).unsqueeze(1)


def _moved_on(positions: Tensor, place: int, count: int) -> Tensor:
    """Positions with `count` more before the one at `place`."""
    if not count:
        return positions
    start = positions[:, place : place + 1] if place < positions.shape[1] else positions[:, -1:] + 1
    own = start + torch.arange(count, device=start.device)
    return torch.cat([positions[:, :place], own, positions[:, place:] + count], dim=1)


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
