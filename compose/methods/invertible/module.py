"""Coupling blocks: maps of the embeddings that can be undone exactly."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

from compose.methods import init
from compose.methods.bottleneck.spec import BottleneckConfig
from compose.methods.invertible.spec import Net, nets
from compose.methods.part import Context, Part, grouped_linear
from compose.specs import ActingSpec, SiteSpec

CLAMP = 5.0
"""A GLOW block multiplies by at most exp(CLAMP), about."""


class CouplingNet(nn.Module):
    """Down, non-linearity, up.

    Args:
        net: its widths.
        non_linearity: the name of an activation.
    """

    def __init__(self, net: Net, non_linearity: str) -> None:
        super().__init__()
        self.down = init.linear(net.input, net.hidden)
        self.activation: nn.Module = ACT2FN["leaky_relu" if non_linearity == "leakyrelu" else non_linearity]
        self.activation.to(self.down.weight.dtype)
        self.up = init.linear(net.hidden, net.output)

    def reset(self, source: torch.Generator | None) -> None:
        """Draws fresh weights."""
        init.normal(self.down.weight, source)
        init.normal(self.up.weight, source)

    def forward(self, states: Tensor) -> Tensor:
        out: Tensor = self.up(self.activation(self.down(states)))
        return out

    @staticmethod
    def grouped(members: Sequence[CouplingNet], states: Tensor) -> Tensor:
        """n networks of the same widths on [n, rows, tokens, width]."""
        hidden = grouped_linear(states, [m.down.weight for m in members], [m.down.bias for m in members])
        hidden = members[0].activation(hidden)
        return grouped_linear(hidden, [m.up.weight for m in members], [m.up.bias for m in members])


Nets = tuple[CouplingNet, CouplingNet]


class InvertiblePart(Part):
    """An invertible adapter (MAD-X, Pfeiffer et al., 2020) over the embeddings' output y = [y1, y2].

    NICE (Dinh et al., 2015), with two networks F and G:

        z1 = y1 + F(y2)                     y2 = z2 - G(z1)
        z2 = y2 + G(z1)                     y1 = z1 - F(y2)

    GLOW (Kingma and Dhariwal, 2018), whose networks give a scale s and a shift t each:

        [s2, t2] = S2(y2)    z1 = e(s2) y1 + t2        y2 = (z2 - t1) / e(s1)
        [s1, t1] = S1(z1)    z2 = e(s1) y2 + t1        y1 = (z1 - t2) / e(s2)

    with e(s) = exp(0.636 c atan(s / c)) and c = 5, so that nothing grows or shrinks by more than about exp(c).

    Args:
        config: the adapter's options.
        acting: its row of the adapter's spec.
        site: the site: the width.
    """

    has_increment = False

    def __init__(self, config: BottleneckConfig, acting: ActingSpec, site: SiteSpec) -> None:
        super().__init__()
        assert config.inv_adapter is not None
        self.config = config
        self.kind = config.inv_adapter
        self.width = site.width_out
        first, second = nets(self.kind, self.width, config.inv_adapter_reduction_factor)
        self.first = CouplingNet(first, config.non_linearity)
        self.second = CouplingNet(second, config.non_linearity)
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Draws fresh weights, as AdapterHub does: a fresh one is close to no change, but not equal to it."""
        source = init.generator(self.config.init_weights_seed)
        for net in (self.first, self.second):
            net.reset(source)

    def forward(self, y: Tensor, context: Context) -> Tensor:
        """The states in the adapter's own space, of the shape of y."""
        left, right = self._halves(y)
        left = self._coupled(left, self.first(right))
        right = self._coupled(right, self.second(left))
        return torch.cat([left, right], dim=-1)

    def inverse(self, states: Tensor) -> Tensor:
        """The states that `forward` makes these of."""
        left, right = self._halves(states)
        right = self._uncoupled(right, self.second(left))
        left = self._uncoupled(left, self.first(right))
        return torch.cat([left, right], dim=-1)

    @classmethod
    def grouped(cls, parts: Sequence[InvertiblePart], ys: Tensor, context: Context) -> Tensor:
        """n parts of one shape in grouped products; see `Part.grouped`."""
        one = parts[0]
        left, right = one._halves(ys)
        left = one._coupled(left, CouplingNet.grouped([part.first for part in parts], right))
        right = one._coupled(right, CouplingNet.grouped([part.second for part in parts], left))
        return torch.cat([left, right], dim=-1)

    def _halves(self, states: Tensor) -> tuple[Tensor, Tensor]:
        left = self.width // 2
        return states[..., :left], states[..., left:]

    def _coupled(self, half: Tensor, given: Tensor) -> Tensor:
        if self.kind == "nice":
            return half + given
        scale, shift = given.chunk(2, dim=-1)
        return _exponential(scale) * half + shift

    def _uncoupled(self, half: Tensor, given: Tensor) -> Tensor:
        if self.kind == "nice":
            return half - given
        scale, shift = given.chunk(2, dim=-1)
        return (half - shift) / _exponential(scale)


def _exponential(scale: Tensor) -> Tensor:
    """exp, clamped softly."""
    return torch.exp(CLAMP * 0.636 * torch.atan(scale / CLAMP))
