"""The weights of DoRA and DVoRA at one linear map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from compose.methods.dora.spec import DoraConfig, DvoraConfig
from compose.methods.linear.module import LinearPart, LowRankPart, Weights
from compose.methods.lora.module import LoraPart
from compose.methods.part import Context, Prepared, required
from compose.methods.vera.module import VeraPart
from compose.specs import ActingSpec, SiteSpec


class DoraPart(LinearPart):
    """A weight's rows by direction and magnitude: W c + b becomes g * (W + D) c + b, with g = magnitude / |W + D|.

    D is a low-rank increment's matrix and |.| the norm of each row. As an increment of the map's output this is
    (g - 1) * W c + g * D c: it depends on c alone, so that it adds up with those of other adapters at the map.
    In training the norm is taken as constant (section 4.3 of the paper).

    Args:
        config: the options.
        acting: its row of the adapter's spec: the rank.
        site: the site: the widths.
        shared: what the increment's parts share, if anything.
    """

    reads_output = True
    shareable: ClassVar[tuple[str, ...]] = ("update.a", "update.b")
    update_type: ClassVar[type[LowRankPart]] = LoraPart
    config: DoraConfig | DvoraConfig

    def __init__(
        self, config: DoraConfig | DvoraConfig, acting: ActingSpec, site: SiteSpec, *shared: nn.Module
    ) -> None:
        super().__init__(config, site)
        self.gate = None  # the update has it
        self.update = self.update_type(config, acting, site, *shared)  # type: ignore[call-arg,arg-type]
        self.magnitude = nn.Parameter(torch.ones(site.width_out))

    @torch.no_grad()
    def start(self, weight: Tensor) -> None:
        """Magnitudes that change nothing: the norms themselves."""
        self.magnitude.copy_(self.norm(weight))

    def norm(self, weight: Tensor) -> Tensor:
        """The norm of each row of W + D, [width_out].

        Args:
            weight: the map's own weight, [width_out, width_in].
        """
        scale = self.config.scale if self.config.scaled_norm else 1.0
        with torch.no_grad():
            moved = weight.to(self.magnitude.dtype) + self.update.product(scale)
            return torch.linalg.vector_norm(moved, dim=1)

    def gain(self, context: Context) -> Tensor:
        """What the rows are multiplied by, [width_out]."""
        assert context.map is not None, "DoRA acts at linear sites alone"
        return self._gain(context.map.weight)

    def _gain(self, weight: Tensor) -> Tensor:
        """The same from the map's own weight; a row of zeros has no direction, and stays as it is."""
        norm = self.norm(weight)
        nothing = norm == 0
        return torch.where(nothing, 1.0, self.magnitude / norm.masked_fill(nothing, 1.0))

    def moved(self, context: Context) -> Tensor:
        """What the gain applies to of the map's own output, [..., tokens, width_out]."""
        output = required(context.output, "output")
        bias = None if context.map is None else context.map.bias
        return output if bias is None or self.config.scaled_bias else output - bias.to(output.dtype)

    def increment_at(self, prepared: Prepared) -> Tensor:
        """What the map's output changes by."""
        assert prepared.context is not None
        gain = self.gain(prepared.context)
        return (gain - 1) * self.moved(prepared.context) + gain * self.update.low_rank(prepared.input).dense()

    def folded(self, now: Weights, base: Weights) -> Weights:
        """The increment's matrix added to the weight, and the bias's share to the bias."""
        gain = self._gain(base.weight).unsqueeze(1)
        weight = now.weight + (gain - 1) * base.weight + gain * self.update.product(self.config.scale)
        if now.bias is None or base.bias is None or not self.config.scaled_bias:
            return Weights(weight, now.bias)
        return Weights(weight, now.bias + (gain.squeeze(1) - 1) * base.bias)

    @classmethod
    def grouped(cls, parts: Sequence[DoraPart], ys: Tensor, context: Context) -> Tensor:
        """n parts of one shape; see `Part.grouped`."""
        gain = torch.stack([part.gain(context) for part in parts])[:, None, None]
        updates = [part.update for part in parts]
        added = type(updates[0]).grouped_increment(updates, required(context.input, "input"))
        return ys + (gain - 1) * parts[0].moved(context) + gain * added


class DvoraPart(DoraPart):
    """The same with a VeRA's increment."""

    shareable = ()
    update_type = VeraPart
