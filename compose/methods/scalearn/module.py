"""ScaLearn at one site.

With candidates' increments u_i = U_i z_i + b_i and residual x: out = x + sum_i w_i * u_i, where w_i is one weight or
one for each element of u_i. Nothing constrains the weights: no softmax, no sum of 1. `reference` computes that as it
stands. `mix` and `mix_products` multiply the scales into the up-projections, which meet all tokens in one product:
sum_i w_i * (U_i z_i + b_i) = [w_1 * U_1, w_2 * U_2, ...] [z_1; z_2; ...] + sum_i w_i * b_i.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from compose.methods.fusion.module_candidates import Candidate
from compose.methods.fusion.module_fold import KEPT, Folds
from compose.methods.fusion.part import FusionPart, FusionPlace, factors_of, sources_of
from compose.methods.part import Factors, LowRank
from compose.methods.scalearn.spec import ScaLearnConfig

SPREAD = 0.001


class Scaled(NamedTuple):
    """The candidates' up-projections times their scales.

    Args:
        up: side by side, [width, sum of ranks]; None without low-rank candidates.
        bias: their sum, [width]; None where no candidate has one.
    """

    up: Tensor | None
    bias: Tensor | None


class ScaLearnPart(FusionPart):
    """A fusion's scales at one site.

    Args:
        config: the options.
        place: where: its width, the number of children, and how many layers it serves.
    """

    def __init__(self, config: ScaLearnConfig, place: FusionPlace) -> None:
        super().__init__()
        self.config = config
        self.temperature = None
        self.dropout = config.dropout
        self.scales = nn.Parameter(torch.empty(place.children, 1 if config.uniform else place.width))
        self._folds = Folds(KEPT * place.layers)
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Draw the scales around `init_scale` / children."""
        self.scales.normal_(self.config.init_scale / max(1, len(self.scales)), SPREAD)

    def reference(
        self,
        query: Tensor,
        candidates: Sequence[Tensor | None],
        residual: Tensor | None,
        temperature: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The sum as it is written down; see `FusionPart.reference`. A child that is not there is a zero candidate."""
        scales = self._dropped()
        out = self._start(query, residual)
        for scale, increment in zip(scales, candidates, strict=True):
            if increment is not None:
                out = out + scale * increment.to(scales.dtype)
        return out, self._counted(query)

    def mix(
        self,
        query: Tensor,
        candidates: Sequence[Candidate],
        residual: Tensor | None,
        temperature: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The sum with one product for all low-rank candidates; see `FusionPart.mix`."""
        scales = self._dropped()
        scaled = _scaled(scales, dict(_present(factors_of(candidates))))
        return self._mixed(query, candidates, residual, scales, scaled)

    def mix_products(
        self,
        query: Tensor,
        candidates: Sequence[Candidate],
        residual: Tensor | None,
        folded: Scaled,
        temperature: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """The sum with up-projections that were scaled beforehand; see `FusionPart.mix_products`."""
        return self._mixed(query, candidates, residual, self.scales, folded)

    def fold(self, factors: Sequence[Factors | None], dense: bool = False) -> Scaled:
        """The scaled up-projections, from a cache where still true; see `FusionPart.fold`."""
        met = dict(_present(factors))
        shape = tuple((place, one.up.shape, one.bias is None) for place, one in met.items())
        sources = [self.scales, *sources_of(list(met.values()))]
        return self._folds.get(shape, sources, lambda: _scaled(self.scales, met))

    def undecayed(self) -> Iterator[nn.Parameter]:
        """The scales: decay would turn the children off."""
        yield self.scales

    def _mixed(
        self,
        query: Tensor,
        candidates: Sequence[Candidate],
        residual: Tensor | None,
        scales: Tensor,
        scaled: Scaled,
    ) -> tuple[Tensor, Tensor]:
        """The sum from scaled up-projections, and from scales for what is dense."""
        out = self._start(query, residual)
        hidden = [one.hidden.to(scales.dtype) for one in candidates if isinstance(one, LowRank)]
        if scaled.up is not None:
            out = out + functional.linear(torch.cat(hidden, dim=-1), scaled.up, scaled.bias)
        for scale, one in zip(scales, candidates, strict=True):
            if isinstance(one, Tensor):
                out = out + scale * one.to(scales.dtype)
        return out, self._counted(query)

    def _start(self, query: Tensor, residual: Tensor | None) -> Tensor:
        return (torch.zeros_like(query) if residual is None else residual).to(self.scales.dtype)

    def _counted(self, query: Tensor) -> Tensor:
        """What each child counts: the mean of its scales, for every token alike."""
        return self.scales.mean(-1).expand(*query.shape[:-1], -1)

    def _dropped(self) -> Tensor:
        return functional.dropout(self.scales, self.dropout, self.training)


def _present(factors: Sequence[Factors | None]) -> Iterator[tuple[int, Factors]]:
    """The candidates in factors, by their places."""
    return ((place, one) for place, one in enumerate(factors) if one is not None)


def _scaled(scales: Tensor, factors: Mapping[int, Factors]) -> Scaled:
    """Up-projections side by side and the sum of biases, each times its child's scales."""
    if not factors:
        return Scaled(None, None)
    ups = [scales[place].unsqueeze(-1) * one.up.to(scales.dtype) for place, one in factors.items()]
    biases = [scales[place] * one.bias.to(scales.dtype) for place, one in factors.items() if one.bias is not None]
    return Scaled(torch.cat(ups, dim=1), torch.stack(biases).sum(0) if biases else None)
