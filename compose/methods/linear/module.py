"""Parts at linear sites, and among them those whose increment is a product of two factors."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from compose.methods import init
from compose.methods.linear.spec import LinearConfig, LowRankConfig
from compose.methods.part import Context, Factors, LowRank, Part, Prepared, grouped_linear, required
from compose.specs import SiteSpec


class Weights(NamedTuple):
    """The weight of a linear map [width_out, width_in] and its bias [width_out], None without one."""

    weight: Tensor
    bias: Tensor | None


class LinearPart(Part):
    """A part that adds an increment to a linear map's output: e(y; c) = y + u.

    Args:
        config: the options.
        site: the site: the widths.

    Attributes:
        shareable: names of the weights that adapters may have in common.
    """

    shareable: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: LinearConfig, site: SiteSpec) -> None:
        super().__init__()
        self.config = config
        self.gate = init.gate(site.width_in) if config.use_gating else None

    def prepare(self, y: Tensor, context: Context) -> Prepared:
        """It reads the map's input and adds to the map's output."""
        input = required(context.input, "input")
        return Prepared(input=input, residual=y, query=y, query_before_norm=y, value=y, context=context)

    def finish(self, increment: Tensor, prepared: Prepared) -> Tensor:
        """The map's output plus the increment."""
        return prepared.residual + increment

    def gates(self, input: Tensor) -> Tensor | None:
        """One gate a row, [..., 1, 1]; None without."""
        return None if self.gate is None else torch.sigmoid(self.gate(input)).mean(dim=-2, keepdim=True)

    @staticmethod
    def grouped_gates(parts: Sequence[LinearPart], input: Tensor) -> Tensor | None:
        """The gates of n parts of one shape, each on its own rows, [n, rows, 1, 1]; None without."""
        maps = [part.gate for part in parts if part.gate is not None]
        if not maps:
            return None
        scores = grouped_linear(input, [gate.weight for gate in maps], [gate.bias for gate in maps])
        return torch.sigmoid(scores).mean(dim=-2, keepdim=True)

    @abstractmethod
    def folded(self, now: Weights, base: Weights) -> Weights:
        """The map's weights with this part multiplied in: the map that they make computes e(y; c) itself.

        Args:
            now: the weights before, into which other parts may have been folded.
            base: the backbone's own.
        """


class LowRankPart(LinearPart):
    """The factors of an increment: e(y; c) = y + scale * up @ down @ c.

    Args:
        config: the options.
        site: the site: the widths.
    """

    config: LowRankConfig

    @abstractmethod
    def downs(self) -> tuple[Tensor, ...]:
        """The maps to the hidden width, in the order in which they are applied; the last one is [rank, ...]."""

    @abstractmethod
    def up(self) -> Tensor:
        """The map from the hidden width, before the scaling, [width_out, rank]."""

    @abstractmethod
    def sources(self) -> tuple[Tensor, ...]:
        """The weights that `up` is made from."""

    def low_rank(self, input: Tensor) -> LowRank:
        """The added term; the gate is a factor of the hidden side."""
        hidden = self.dropped(input)
        for weight in self.downs():
            hidden = functional.linear(hidden, weight)
        gates = self.gates(input)
        return LowRank(hidden if gates is None else hidden * gates, *self.factors())

    def factors(self) -> Factors:
        """The second factor, times the scaling."""
        return Factors(self.scaled(), None, self.sources())

    def dropped(self, input: Tensor) -> Tensor:
        """The input after dropout."""
        return functional.dropout(input, self.config.dropout, self.training)

    def scaled(self) -> Tensor:
        """The second factor times the scaling, [width_out, rank]."""
        up = self.up()
        return up if self.config.scale == 1.0 else up * self.config.scale

    def product(self, scale: float) -> Tensor:
        """The increment's matrix without gate and dropout, times a scaling, [width_out, width_in]."""
        first, *others = self.downs()
        for weight in others:
            first = weight @ first
        return (self.up() * scale) @ first

    def folded(self, now: Weights, base: Weights) -> Weights:
        """W + scale * up @ down."""
        return now._replace(weight=now.weight + self.product(self.config.scale))

    @classmethod
    def grouped_increment(cls, parts: Sequence[LowRankPart], input: Tensor) -> Tensor:
        """The increments of n parts of one shape, each on its own rows.

        Args:
            parts: the n parts.
            input: [n, rows, tokens, width_in].

        Returns:
            [n, rows, tokens, width_out].
        """
        hidden = parts[0].dropped(input)
        for weights in zip(*(part.downs() for part in parts), strict=True):
            hidden = grouped_linear(hidden, weights)
        gates = cls.grouped_gates(parts, input)
        hidden = hidden if gates is None else hidden * gates
        return grouped_linear(hidden, [part.scaled() for part in parts])

    @classmethod
    def grouped(cls, parts: Sequence[LowRankPart], ys: Tensor, context: Context) -> Tensor:
        """n parts of one shape in grouped products; see `Part.grouped`."""
        return ys + cls.grouped_increment(parts, required(context.input, "input"))
