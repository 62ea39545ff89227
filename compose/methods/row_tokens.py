"""Where in its row each token stands: what methods read that act on some tokens only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

FAR = torch.iinfo(torch.int64).max
"""The number of a token that is padding: at no end of its row."""


class Chosen(NamedTuple):
    """Some tokens of each row.

    Args:
        places: [..., rows, n], which; no token twice.
        there: [..., rows, n], False where a row has fewer than n such tokens: another stands in for it.
        sizes: how many of them belong to each end, in order; they add up to n.
    """

    places: Tensor
    there: Tensor
    sizes: tuple[int, ...]

    def take(self, states: Tensor) -> Tensor:
        """Their states [..., rows, n, width], of states [..., rows, tokens, width]."""
        return states.gather(-2, self._expanded(states))

    def add(self, states: Tensor, change: Tensor) -> Tensor:
        """The states with a change [..., rows, n, width] added to those of the tokens."""
        own = change.masked_fill(~self.there.unsqueeze(-1), 0.0)
        return states.scatter_add(-2, self._expanded(own, states.shape[-1]), own)

    def _expanded(self, states: Tensor, width: int | None = None) -> Tensor:
        return self.places.unsqueeze(-1).expand(*states.shape[:-2], -1, width or states.shape[-1])


class RowTokens:
    """The tokens of some rows, numbered from both ends of their row; padding is not counted.

    Args:
        front: [..., rows, tokens]: 0 for a row's first token, 1 for the next; `FAR` for padding.
        back: the same from its last token.
    """

    def __init__(self, front: Tensor, back: Tensor) -> None:
        self.front = front
        self.back = back
        self._chosen: dict[tuple[int, int, bool], Chosen] = {}
        self._parts: list[RowTokens] = []

    @classmethod
    def of(cls, rows: int, tokens: int, device: torch.device, mask: Tensor | None = None) -> RowTokens:
        """The tokens that a layer is given.

        Args:
            rows, tokens: how many.
            device: of the states.
            mask: [rows, any], 0 where a token is padding; None: none is. Of a longer one the last columns are
                these tokens', and those before are in a key/value cache; tokens that a shorter one does not
                know come first and are there: they are prompts.
        """
        if mask is None:
            mask = torch.ones((rows, tokens), dtype=torch.bool, device=device)
        there = mask != 0
        if there.shape[1] < tokens:
            there = torch.cat([there.new_ones((rows, tokens - there.shape[1])), there], dim=1)
        number = there.cumsum(1)
        front = (number - 1).masked_fill(~there, FAR)
        back = (number[:, -1:] - number).masked_fill(~there, FAR)
        before = there.shape[1] - tokens
        return cls(front[:, before:], back[:, before:])

    @classmethod
    def together(cls, tokens: Sequence[RowTokens]) -> RowTokens:
        """Those of n values with as many rows each: [n, rows, tokens]; the first one's where all are the same."""
        if all(each is tokens[0] for each in tokens):
            return tokens[0]
        return cls(torch.stack([each.front for each in tokens]), torch.stack([each.back for each in tokens]))

    def parts(self, count: int, rows: int) -> Sequence[RowTokens]:
        """Those of each of `count` classes of some rows; the same for all where all classes have the same tokens."""
        if len(self.front) == rows:
            return [self] * count
        if not self._parts:
            pairs = zip(self.front.chunk(count), self.back.chunk(count), strict=True)
            self._parts = [RowTokens(front, back) for front, back in pairs]
        return self._parts

    def each(self, change: Callable[[Tensor], Tensor]) -> RowTokens:
        """Those of other rows or tokens, which keep the numbers that they have in their rows."""
        return RowTokens(change(self.front), change(self.back))

    def ends(self, first: int, last: int, together: bool = False) -> Chosen:
        """The first and the last tokens of each row; one that is both is a last one.

        Args:
            first, last: how many.
            together: as one end rather than two.
        """
        key = (first, last, together)
        if key not in self._chosen:
            front, back = self.front < first, self.back < last
            wanted = [(front | back, first + last)] if together else [(front & ~back, first), (back, last)]
            self._chosen[key] = _choose([(which, count) for which, count in wanted if count])
        return self._chosen[key]


def _choose(wanted: list[tuple[Tensor, int]]) -> Chosen:
    """Indices of tokens that are wanted, of which no row has more than the number beside them."""
    found = [which.to(torch.int32).topk(min(count, which.shape[-1])) for which, count in wanted]
    return Chosen(
        places=torch.cat([indices for _, indices in found], dim=-1),
        there=torch.cat([values for values, _ in found], dim=-1) != 0,
        sizes=tuple(indices.shape[-1] for _, indices in found),
    )
