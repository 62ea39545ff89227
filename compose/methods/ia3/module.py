"""An IA3 adapter's weights at one linear map."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from compose.methods import init
from compose.methods.ia3.spec import Ia3Config
from compose.methods.linear.module import LinearPart, Weights
from compose.methods.part import Context, Prepared, required
from compose.specs import ActingSpec, SiteSpec


class Ia3Part(LinearPart):
    """A factor for every channel: e(y; c) = scaling * y. Its increment is the difference, (scaling - 1) * y.

    Args:
        config: the options.
        acting: its row of the adapter's spec.
        site: the site: the widths.
    """

    config: Ia3Config

    def __init__(self, config: Ia3Config, acting: ActingSpec, site: SiteSpec) -> None:
        super().__init__(config, site)
        self.scaling = nn.Parameter(torch.empty(site.width_out))
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Start as no change."""
        nn.init.ones_(self.scaling)
        if self.gate is not None:
            init.normal(self.gate.weight, init.generator(self.config.init_weights_seed))

    def scaled(self) -> Tensor:
        """The factors, [width_out]."""
        return self.scaling if self.config.scale == 1.0 else self.scaling * self.config.scale

    def increment_at(self, prepared: Prepared) -> Tensor:
        """The scaling's difference."""
        gates = self.gates(prepared.input)
        factor = self.scaled() if gates is None else self.scaled() * gates
        return (factor - 1) * prepared.value

    def forward(self, y: Tensor, context: Context) -> Tensor:
        """The value, scaled."""
        gates = None if self.gate is None else self.gates(required(context.input, "input"))
        return y * (self.scaled() if gates is None else self.scaled() * gates)

    def folded(self, now: Weights, base: Weights) -> Weights:
        """Rows of the weight and the bias, scaled."""
        factor = self.scaled()
        return Weights(now.weight * factor.unsqueeze(1), None if now.bias is None else now.bias * factor)

    @classmethod
    def grouped(cls, parts: Sequence[Ia3Part], ys: Tensor, context: Context) -> Tensor:
        """n parts of one shape; see `Part.grouped`."""
        factor = torch.stack([part.scaled() for part in parts])[:, None, None]
        gates = cls.grouped_gates(parts, context.input) if context.input is not None else None
        return ys * (factor if gates is None else factor * gates)
