"""A fusion's candidates side by side: scores and mixtures without an increment multiplied out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from compose.methods.part import Factors, LowRank

Candidate = LowRank | Tensor | None
"""An increment in factors, as a tensor [..., tokens, width], or zero."""


@dataclass(frozen=True)
class Candidates:
    """The candidates of one call, by kind; the numbers are their places.

    Args:
        count: how many there are; those of no kind are zero.
        low: places of the low-rank ones.
        ranks: their ranks.
        hidden: their hiddens side by side [..., tokens, sum of ranks]; None without any.
        biased: places of those with a bias.
        dense: places and increments of the dense ones.
    """

    count: int
    low: tuple[int, ...]
    ranks: tuple[int, ...]
    hidden: Tensor | None
    biased: tuple[int, ...]
    dense: tuple[tuple[int, Tensor], ...]

    @classmethod
    def of(cls, candidates: Sequence[Candidate], dtype: torch.dtype) -> Candidates:
        """Sort candidates by kind, in a dtype."""
        low = {place: one for place, one in enumerate(candidates) if isinstance(one, LowRank)}
        hiddens = [one.hidden.to(dtype) for one in low.values()]
        return cls(
            count=len(candidates),
            low=tuple(low),
            ranks=tuple(hidden.shape[-1] for hidden in hiddens),
            hidden=torch.cat(hiddens, dim=-1) if hiddens else None,
            biased=tuple(place for place, one in low.items() if one.bias is not None),
            dense=tuple((i, one.to(dtype)) for i, one in enumerate(candidates) if isinstance(one, Tensor)),
        )

    def scores(self, projected: Tensor | None, against: Tensor) -> Tensor:
        """What each candidate scores, up to what all share.

        Args:
            projected: the query against the columns [..., tokens, columns]: the up-projections,
                then the biases; None without low-rank candidates.
            against: what dense increments are compared with, [..., tokens, width].

        Returns:
            [..., tokens, candidates].
        """
        zero = against.new_zeros(against.shape[:-1])
        each = [zero] * self.count
        if self.hidden is not None and projected is not None:
            total = self.hidden.shape[-1]
            products = projected[..., :total] * self.hidden
            for place, product in zip(self.low, products.split(self.ranks, dim=-1), strict=True):
                each[place] = product.sum(-1)
            for place, bias in zip(self.biased, projected[..., total:].unbind(-1), strict=True):
                each[place] = each[place] + bias
        for place, increment in self.dense:
            each[place] = (against * increment).sum(-1)
        return torch.stack(each, dim=-1)

    def mixed(self, weights: Tensor, columns: Tensor | None) -> Tensor | None:
        """The weighted sum of the increments, or of what `columns` make of them.

        Args:
            weights: [..., tokens, candidates].
            columns: [width, columns]: the up-projections, then the biases; or a product with them.

        Returns:
            [..., tokens, width]; None if all candidates are zero.
        """
        mixture = None
        if self.hidden is not None and columns is not None:
            hiddens = self.hidden.split(self.ranks, dim=-1)
            weighted = [weights[..., place, None] * hidden for place, hidden in zip(self.low, hiddens, strict=True)]
            weighted += [weights[..., place, None] for place in self.biased]
            mixture = torch.cat(weighted, dim=-1) @ columns.T
        for place, increment in self.dense:
            term = weights[..., place, None] * increment
            mixture = term if mixture is None else mixture + term
        return mixture


def columns_of(factors: Sequence[Factors], dtype: torch.dtype | None) -> Tensor | None:
    """Up-projections side by side, then a column a bias: [width, columns]; None of none.

    Args:
        factors: of the low-rank candidates, in order.
        dtype: of the result; None keeps their own.
    """
    if not factors:
        return None
    biases = [one.bias.unsqueeze(1) for one in factors if one.bias is not None]
    return torch.cat([one.up for one in factors] + biases, dim=1).to(dtype or factors[0].up.dtype)
