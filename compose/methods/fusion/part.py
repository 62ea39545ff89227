"""The interface between the runtime and every kind of fusion: its weights at one site."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from compose.methods.fusion.module_candidates import Candidate
from compose.methods.fusion.module_fold import Products
from compose.methods.part import Factors, LowRank


class FusionPlace(NamedTuple):
    """Where a fusion's weights are to serve.

    Args:
        width: of the site's value.
        children: how many children the Fuse has that they are made for.
        layers: how many layers they serve.
        dropout: that of the backbone's attention.
    """

    width: int
    children: int = 0
    layers: int = 1
    dropout: float = 0.0


class FusionPart(nn.Module):
    """A fusion's weights at one site: what makes a mixture of the candidates' increments.

    Attributes:
        temperature: what scores are divided by, where that falls with training.
        dropout: the probability with which training drops what decides the mixture.
    """

    temperature: Tensor | None
    dropout: float

    @property
    def drops(self) -> bool:
        """Whether dropout acts now."""
        return self.training and self.dropout > 0

    @property
    def reads_before_norm(self) -> bool:
        """Whether its query is the value before the LayerNorm, not after it."""
        return False

    @abstractmethod
    def reference(
        self,
        query: Tensor,
        candidates: Sequence[Tensor | None],
        residual: Tensor | None,
        temperature: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The fusion as it is written down; what the fast forms are held against.

        Args:
            query: [..., tokens, width].
            candidates: increments [..., tokens, width]; None is zero.
            residual: [..., tokens, width]; None leaves the mixture without one.
            temperature: that of the call, where a recomputation may come after it has fallen; its own otherwise.

        Returns:
            The mixture with the residual, and what each candidate counts [..., tokens, candidates].
        """

    @abstractmethod
    def mix(
        self,
        query: Tensor,
        candidates: Sequence[Candidate],
        residual: Tensor | None,
        temperature: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The fusion without a tensor of candidates x width a token, gradients and all.

        Args:
            query, residual, temperature: as for `reference`.
            candidates: increments, in factors where they have them.
        """

    def mix_folded(
        self,
        query: Tensor,
        candidates: Sequence[Candidate],
        residual: Tensor | None,
        folded: Products | None = None,
        temperature: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The fusion with all constant products made beforehand; for inference.

        No gradient reaches the weights that were multiplied out. While dropout acts, and in compiled code without
        `folded`, it is `mix`.

        Args:
            query, candidates, residual, temperature: as for `mix`.
            folded: what `fold` gave for these candidates, for compiled code, which cannot ask whether weights
                have changed; looked up otherwise.
        """
        if self.drops or (folded is None and torch.compiler.is_compiling()):
            return self.mix(query, candidates, residual, temperature)
        if folded is None:
            folded = self.fold(factors_of(candidates), dense=any(isinstance(one, Tensor) for one in candidates))
        return self.mix_products(query, candidates, residual, folded, temperature)

    @abstractmethod
    def mix_products(
        self,
        query: Tensor,
        candidates: Sequence[Candidate],
        residual: Tensor | None,
        folded: Any,
        temperature: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """The fusion from constant products.

        Args:
            query, candidates, residual, temperature: as for `mix`.
            folded: what `fold` gave for these candidates.
        """

    @abstractmethod
    def fold(self, factors: Sequence[Factors | None], dense: bool = False) -> Products:
        """The constant products of this fusion with some candidates, from a cache where still true.

        Args:
            factors: of each candidate; None for one that has none.
            dense: whether any of those without is dense, not zero.
        """

    def advance(self) -> None:
        """One training step: what depends on their number changes."""
        return

    def regularization_loss(self) -> Tensor:
        """What is to be added to the loss, a scalar."""
        return torch.zeros(())

    def undecayed(self) -> Iterator[nn.Parameter]:
        """Weights of which smaller is not simpler: weight decay must leave them alone."""
        return iter(())


def factors_of(candidates: Sequence[Candidate]) -> list[Factors | None]:
    """What is constant in each candidate; None for one that is not in factors."""
    return [one.factors if isinstance(one, LowRank) else None for one in candidates]


def sources_of(factors: Sequence[Factors]) -> list[Tensor]:
    """The weights that factors are made from: what a cache of products with them has to watch."""
    found: list[Tensor] = []
    for one in factors:
        found += one.sources or ((one.up,) if one.bias is None else (one.up, one.bias))
    return found
