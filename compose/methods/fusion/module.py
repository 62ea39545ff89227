"""AdapterFusion at one site.

With query h, candidates' increments u_i = U_i z_i + b_i and residual x:
q = Wq h + bq, s_i = q.(Wk u_i + bk), p = softmax(dropout(s) / T), out = x + sum_i p_i Wv u_i.
`reference` computes that as it stands. `mix` needs no product of width x width per candidate and token,
and `mix_folded` none at all: the same numbers, since every step but the softmax is linear.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from compose.methods import init
from compose.methods.fusion.module_candidates import Candidate, Candidates, columns_of
from compose.methods.fusion.module_fold import Folded, Folds, multiplied
from compose.methods.fusion.part import FusionPart, FusionPlace, factors_of, sources_of
from compose.methods.fusion.spec import FusionConfig
from compose.methods.part import Factors, LowRank

TEMPERATURE = 50.0
COOLING = 0.05
REGULARIZATION = 0.01


class AttentionPart(FusionPart):
    """The matrices of AdapterFusion at one site.

    Args:
        config: the options.
        place: where: its width, and the dropout on the scores where the config names none.
    """

    def __init__(self, config: FusionConfig, place: FusionPlace) -> None:
        super().__init__()
        self.config = config
        self.width = width = place.width
        self.dropout = place.dropout if config.dropout_prob is None else config.dropout_prob
        self.query = init.linear(width, width) if config.query else None
        self.key = init.linear(width, width) if config.key else None
        self.value = init.linear(width, width, bias=False) if config.value else None
        self.register_buffer("temperature", torch.tensor(TEMPERATURE) if config.temperature else None)
        self._folds = Folds()
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Draw query and key; the value matrix starts as next to the identity."""
        for matrix in (self.query, self.key, self.value):
            if matrix is not None:
                init.normal(matrix.weight, None)
        if self.value is not None and self.config.value_initialized:
            self.value.weight.fill_(1e-6).fill_diagonal_(1.0)

    def reference(
        self,
        query: Tensor,
        candidates: Sequence[Tensor | None],
        residual: Tensor | None,
        temperature: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The fusion as it is written down; see `FusionPart.reference`."""
        query, residual = self._taken(query, residual)
        each = [torch.zeros_like(residual) if one is None else self._own(one) for one in candidates]
        increments = torch.stack(each, dim=-2)
        if self.config.residual_before:
            increments = increments + residual.unsqueeze(-2)
        keys = increments if self.key is None else self.key(increments)
        scores = torch.einsum("...d,...nd->...n", self._queried(query), keys)
        weights = self._attention(scores, temperature)
        values = increments
        if self.value is not None and self.config.value_before_softmax:
            values = self.value(values)
        mixture = torch.einsum("...n,...nd->...d", weights, values)
        if self.value is not None and not self.config.value_before_softmax:
            mixture = self.value(mixture)
        return mixture if self.config.residual_before else mixture + residual, weights

    def mix(
        self,
        query: Tensor,
        candidates: Sequence[Candidate],
        residual: Tensor | None,
        temperature: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The fusion without a tensor of candidates x width a token; see `FusionPart.mix`.

        Its matrices meet the candidates' up-projections where that is less work than to meet each token, as in
        training: gradients flow through the products.
        """
        query, residual = self._taken(query, residual)
        joined = Candidates.of(candidates, query.dtype)
        columns = columns_of([one.factors for one in candidates if isinstance(one, LowRank)], query.dtype)
        if columns is not None and not joined.dense and self._fewer(columns, query):
            products = multiplied(self.query, self.key, self.value, columns)
            return self._low_rank(query, joined, residual, products, temperature)
        queried = self._queried(query)
        against = queried if self.key is None else queried @ self.key.weight
        scores = joined.scores(None if columns is None else against @ columns, against)
        if self.drops:
            scores = scores + self._shared(queried, against, residual)
        weights = self._attention(scores, temperature)
        return self._closed(joined.mixed(weights, columns), residual), weights

    def mix_products(
        self,
        query: Tensor,
        candidates: Sequence[Candidate],
        residual: Tensor | None,
        folded: Folded,
        temperature: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """The fusion from constant products; see `FusionPart.mix_products`."""
        query, residual = self._taken(query, residual)
        joined = Candidates.of(candidates, query.dtype)
        if folded.values is not None:
            return self._low_rank(query, joined, residual, folded, temperature)
        against = query
        if folded.scores is not None:
            against = functional.linear(query, folded.scores, folded.score_bias)
        columns = columns_of([one for one in factors_of(candidates) if one is not None], query.dtype)
        scores = joined.scores(None if columns is None else against @ columns, against)
        weights = self._attention(scores, temperature)
        return self._closed(joined.mixed(weights, columns), residual), weights

    def _low_rank(
        self, query: Tensor, joined: Candidates, residual: Tensor, products: Folded, temperature: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The fusion of low-rank candidates whose up-projections its matrices have met."""
        assert products.values is not None, "there are no dense candidates"
        against = query
        if products.scores is not None:
            against = functional.linear(query, products.scores, products.score_bias)
        scores = joined.scores(against, query)
        if self.drops and self.key is not None:
            scores = scores + self._shared_bias(query)
        weights = self._attention(scores, temperature)
        return self._closed(joined.mixed(weights, products.values), residual, valued=True), weights

    def fold(self, factors: Sequence[Factors | None], dense: bool = False) -> Folded:
        """The constant products, from a cache where still true; see `FusionPart.fold`.

        With dense candidates only query and key can be multiplied out.
        """
        met = [] if dense else [one for one in factors if one is not None]
        shape = tuple((one.up.shape, one.bias is None) for one in met)

        def build() -> Folded:
            columns = columns_of(met, self._dtype) if met else None
            return multiplied(self.query, self.key, self.value, columns)

        return self._folds.get(shape, [*self.parameters(), *sources_of(met)], build)

    def advance(self) -> None:
        """One training step: the temperature falls, to 1 at last."""
        if self.temperature is not None:
            # A new tensor: the backward of calls that are under way needs the old one.
            self.temperature = (self.temperature - COOLING).clamp(min=1.0)

    def regularization_loss(self) -> Tensor:
        """0.01 times the squared distance of the value matrix from the identity, a scalar."""
        if self.value is None or not self.config.regularization:
            return torch.zeros(())
        weight = self.value.weight
        identity = torch.eye(self.width, dtype=weight.dtype, device=weight.device)
        return REGULARIZATION * (weight - identity).square().sum()

    def undecayed(self) -> Iterator[nn.Parameter]:
        """The value matrix, where it is drawn to the identity instead."""
        if self.value is not None and self.config.regularization:
            yield from self.value.parameters()

    @property
    def reads_before_norm(self) -> bool:
        """Whether its query is the value before the LayerNorm, not after it."""
        return self.config.query_before_ln

    @property
    def _dtype(self) -> torch.dtype | None:
        """The dtype that it computes in; None, that of what comes in, if it has no matrix."""
        for matrix in (self.query, self.key, self.value):
            if matrix is not None:
                return matrix.weight.dtype
        return None

    def _own(self, tensor: Tensor) -> Tensor:
        dtype = self._dtype
        return tensor if dtype is None else tensor.to(dtype)

    def _taken(self, query: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        query = self._own(query)
        return query, torch.zeros_like(query) if residual is None else self._own(residual)

    def _fewer(self, columns: Tensor, query: Tensor) -> bool:
        """Whether the products with the columns are fewer than those with the tokens."""
        if self.drops and self.config.residual_before:  # its scores need the query against each residual
            return False
        return query.numel() >= columns.numel()

    def _shared_bias(self, query: Tensor) -> Tensor:
        """q.bk, which all candidates share, [..., tokens, 1]: it moves no softmax, but dropout would take it
        from some of them.
        """
        assert self.key is not None
        bias = self.key.bias
        if self.query is not None:
            return functional.linear(query, (bias @ self.query.weight).unsqueeze(0), (bias @ self.query.bias).view(1))
        return functional.linear(query, bias.unsqueeze(0))

    def _queried(self, query: Tensor) -> Tensor:
        return query if self.query is None else cast(Tensor, self.query(query))

    def _attention(self, scores: Tensor, temperature: Tensor | None) -> Tensor:
        scores = functional.dropout(scores, self.dropout, self.training)
        temperature = self.temperature if temperature is None else temperature
        if temperature is not None:
            scores = scores / temperature.to(scores.dtype)
        precise = torch.promote_types(scores.dtype, torch.float32)
        return scores.softmax(-1, dtype=precise).to(scores.dtype)

    def _shared(self, queried: Tensor, against: Tensor, residual: Tensor) -> Tensor:
        """The part of the scores that all candidates share, [..., tokens, 1].

        It moves no softmax, but dropout would take it from some candidates.
        """
        shared = torch.zeros_like(residual[..., :1])
        if self.key is not None:
            shared = shared + (queried @ self.key.bias).unsqueeze(-1)
        if self.config.residual_before:
            shared = shared + (against * residual).sum(-1, keepdim=True)
        return shared

    def _valued(self, tensor: Tensor) -> Tensor:
        return tensor if self.value is None else cast(Tensor, self.value(tensor))

    def _closed(self, mixture: Tensor | None, residual: Tensor, valued: bool = False) -> Tensor:
        """Value matrix and residual in their order.

        Args:
            mixture: the weighted increments; None if all are zero.
            residual: what the mixture is added to.
            valued: whether the value matrix is in the mixture already.
        """
        if not self.config.residual_before:
            if mixture is None:
                return residual
            return (mixture if valued else self._valued(mixture)) + residual
        if mixture is None or valued:
            residual = self._valued(residual)
            return residual if mixture is None else mixture + residual
        return self._valued(mixture + residual)
