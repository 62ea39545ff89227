"""A LoRA adapter's weights at one linear map."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from compose.methods import init
from compose.methods.lora.spec import LoraConfig
from compose.methods.part import Context, Factors, LowRank, Part, Prepared, grouped_linear, required
from compose.specs import ActingSpec, SiteSpec


class LoraPart(Part):
    """The factors of an increment: e(y; c) = y + scale * b @ a @ c.

    Args:
        config: the options.
        acting: its row of the adapter's spec: the rank.
        site: the site: the widths.
    """

    def __init__(self, config: LoraConfig, acting: ActingSpec, site: SiteSpec) -> None:
        super().__init__()
        self.config = config
        self.a = nn.Parameter(torch.empty(acting.rank, site.width_in))
        self.b = nn.Parameter(torch.empty(site.width_out, acting.rank))
        self.gate = init.gate(site.width_in) if config.use_gating else None
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Draw the weights that `init_weights` asks for."""
        source = init.generator(self.config.init_weights_seed)
        if self.config.init_weights == "lora":
            init.kaiming(self.a, source)
            nn.init.zeros_(self.b)
        else:
            init.normal(self.a, source)
            init.normal(self.b, source)
        if self.gate is not None:
            init.normal(self.gate.weight, source)

    def prepare(self, y: Tensor, context: Context) -> Prepared:
        """It reads the map's input and adds to the map's output."""
        input = required(context.input, "input")
        return Prepared(input=input, residual=y, query=y, query_before_norm=y, value=y)

    def low_rank(self, input: Tensor) -> LowRank:
        """The added term; the gate is a factor of the hidden side."""
        hidden = functional.linear(self.dropped(input), self.a)
        if self.gate is not None:
            hidden = hidden * torch.sigmoid(self.gate(input)).mean(dim=-2, keepdim=True)
        return LowRank(hidden, *self.factors())

    def factors(self) -> Factors:
        """The second factor, times the scaling."""
        return Factors(self.scaled(), None, (self.b,))

    def dropped(self, input: Tensor) -> Tensor:
        """The input after dropout."""
        return functional.dropout(input, self.config.dropout, self.training)

    def scaled(self) -> Tensor:
        """The second factor times the scaling, [width_out, rank]."""
        return self.b if self.config.scale == 1.0 else self.b * self.config.scale

    def finish(self, increment: Tensor, prepared: Prepared) -> Tensor:
        """The map's output plus the increment."""
        return prepared.residual + increment

    @classmethod
    def grouped(cls, parts: Sequence[LoraPart], ys: Tensor, context: Context) -> Tensor:
        """n parts of one shape in grouped products; see `Part.grouped`."""
        input = required(context.input, "input")
        hidden = grouped_linear(parts[0].dropped(input), [part.a for part in parts])
        maps = [part.gate for part in parts if part.gate is not None]
        if maps:
            scores = grouped_linear(input, [g.weight for g in maps], [g.bias for g in maps])
            hidden = hidden * torch.sigmoid(scores).mean(dim=-2, keepdim=True)
        return ys + grouped_linear(hidden, [part.scaled() for part in parts])
