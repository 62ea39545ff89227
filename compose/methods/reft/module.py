"""A ReFT adapter's weights at one layer's output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from compose.methods import init
from compose.methods.bottleneck.module import activation
from compose.methods.part import Context, Factors, LowRank, Part, Prepared, grouped_linear
from compose.methods.reft.orthogonal import Projection
from compose.methods.reft.spec import ReftConfig
from compose.methods.row_tokens import Chosen, RowTokens
from compose.specs import ActingSpec, SiteSpec


class Unit(nn.Module):
    """The weights for one end of a row, or for both.

    Args:
        config: the options.
        width: of the states.
    """

    def __init__(self, config: ReftConfig, width: int) -> None:
        super().__init__()
        self.config = config
        self.source = init.linear(width, config.r)
        self.projection = Projection(config.r, width, config.orthogonality)
        name = config.non_linearity
        self.activation = nn.Identity() if name is None else activation(name).to(self.source.weight.dtype)

    def reset(self, source: torch.Generator | None) -> None:
        """Draws fresh weights."""
        init.kaiming(self.source.weight, source)
        init.kaiming(self.projection.weight, source)
        self.projection.straighten()

    def hidden(self, states: Tensor) -> Tensor:
        """By how much states [..., width] are moved along each of the directions, [..., r]."""
        target = self.activation(self.source(states))
        if self.config.subtract_projection:
            target = target - functional.linear(states, self.projection.matrix())
        return target


class Read(NamedTuple):
    """What a part reads: all states, and where in its row each token stands."""

    states: Tensor
    tokens: RowTokens


class ReftPart(Part):
    """Changes the states of a row's first and last tokens within a low-rank subspace.

    With the projection R [r, width] and the source W [r, width] with bias b, each end of a row with its own:

        e(y) = y + R^T (f(W y + b) - R y)

    for these tokens, and e(y) = y for all others; without `subtract_projection` the term R y is not there. In
    training dropout acts on the result, as in the authors' implementation. The increment is the added term.

    Args:
        config: the options.
        acting: its row of the adapter's spec.
        site: the site: the width.
    """

    def __init__(self, config: ReftConfig, acting: ActingSpec, site: SiteSpec) -> None:
        super().__init__()
        self.config = config
        self.units = nn.ModuleDict({name: Unit(config, site.width_out) for name in config.units})
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Draws fresh weights."""
        source = init.generator(self.config.init_weights_seed)
        for unit in self.units.values():
            unit.reset(source)  # type: ignore[operator]

    @property
    def used(self) -> list[Unit]:
        """The units that have tokens to act on, in the order of a row."""
        return [self.units[name] for name in self.config.used]  # type: ignore[misc]

    def prepare(self, y: Tensor, context: Context) -> Prepared:
        """It reads y and adds to y."""
        tokens = context.row_tokens
        if tokens is None:
            tokens = RowTokens.of(y.shape[-3], y.shape[-2], y.device)
        return Prepared(input=Read(y, tokens), residual=y, query=y, query_before_norm=y, value=y)

    def low_rank(self, input: Read) -> LowRank:
        """The added term: what each unit moves the tokens by, each in columns of its own; 0 for other tokens."""
        chosen, r = self._chosen(input.tokens), self.config.r
        taken = chosen.take(input.states).split(chosen.sizes, dim=-2)
        last = len(taken) - 1
        hidden = [
            functional.pad(unit.hidden(states), (r * place, r * (last - place)))
            for place, (unit, states) in enumerate(zip(self.used, taken, strict=True))
        ]
        zeros = input.states.new_zeros((*input.states.shape[:-1], r * len(taken)))
        return LowRank(chosen.add(zeros, torch.cat(hidden, dim=-2)), *self.factors())

    def factors(self) -> Factors:
        """The projections, transposed."""
        weights = tuple(unit.projection.weight for unit in self.used)
        return Factors(torch.cat([unit.projection.matrix() for unit in self.used]).mT, None, weights)

    def increment(self, input: Read) -> Tensor:
        """The added term, 0 for tokens that it does not act on."""
        chosen = self._chosen(input.tokens)
        return chosen.add(torch.zeros_like(input.states), self._added(chosen.take(input.states), chosen))

    def act(self, prepared: Prepared) -> Tensor:
        """e(y), with no more work than its tokens are."""
        states, tokens = prepared.input
        chosen = self._chosen(tokens)
        taken = chosen.take(states)
        return chosen.add(states, self._kept(taken, self._added(taken, chosen)))

    def finish(self, increment: Tensor, prepared: Prepared) -> Tensor:
        """The state plus the increment, with dropout on the tokens that it acts on."""
        states, tokens = prepared.input
        if not self._drops():
            return prepared.residual + increment
        chosen = self._chosen(tokens)
        return chosen.add(states, self._kept(chosen.take(states), chosen.take(increment)))

    @classmethod
    def grouped(cls, parts: Sequence[ReftPart], ys: Tensor, context: Context) -> Tensor:
        """n parts of one shape in grouped products; see `Part.grouped`."""
        first = parts[0]
        states, tokens = first.prepare(ys, context).input
        chosen = first._chosen(tokens)
        taken = chosen.take(states)
        added = []
        ends = zip(*(part.used for part in parts), strict=True)
        for units, given in zip(ends, taken.split(chosen.sizes, dim=-2), strict=True):
            matrices = [unit.projection.matrix() for unit in units]
            weights, biases = [unit.source.weight for unit in units], [unit.source.bias for unit in units]
            hidden = units[0].activation(grouped_linear(given, weights, biases))
            if first.config.subtract_projection:
                hidden = hidden - grouped_linear(given, matrices)
            added.append(grouped_linear(hidden, [matrix.mT for matrix in matrices]))
        return chosen.add(states, first._kept(taken, torch.cat(added, dim=-2)))

    def _chosen(self, tokens: RowTokens) -> Chosen:
        config = self.config
        return tokens.ends(config.prefix_positions, config.suffix_positions, together=config.tied_weights)

    def _added(self, taken: Tensor, chosen: Chosen) -> Tensor:
        """The added terms of the tokens that were taken."""
        ends = zip(self.used, taken.split(chosen.sizes, dim=-2), strict=True)
        return torch.cat([unit.hidden(states) @ unit.projection.matrix() for unit, states in ends], dim=-2)

    def _kept(self, taken: Tensor, added: Tensor) -> Tensor:
        """By how much states change when something is added to them: in training, dropout takes of their sum."""
        if not self._drops():
            return added
        return functional.dropout(taken + added, self.config.dropout, self.training) - taken

    def _drops(self) -> bool:
        return self.training and self.config.dropout > 0
