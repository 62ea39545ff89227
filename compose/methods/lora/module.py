"""A LoRA adapter's weights at one linear map."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from compose.methods import init
from compose.methods.linear.module import LowRankPart
from compose.methods.lora.spec import LoraConfig
from compose.specs import ActingSpec, SiteSpec


class FactorsPart(LowRankPart):
    """A part with factors of its own, which are trained and which adapters may have in common.

    Args:
        config: the options.
        acting: its row of the adapter's spec: the rank.
        site: the site: the widths.
        ups: how many second factors, as the first dimension of `b`; without such a dimension if empty.
    """

    shareable = ("a", "b")
    config: LoraConfig

    def __init__(self, config: LoraConfig, acting: ActingSpec, site: SiteSpec, ups: tuple[int, ...] = ()) -> None:
        super().__init__(config, site)
        self.a = nn.Parameter(torch.empty(acting.rank, site.width_in))
        self.b = nn.Parameter(torch.empty(*ups, site.width_out, acting.rank))

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


class LoraPart(FactorsPart):
    """The factors of an increment: e(y; c) = y + scale * b @ a @ c.

    Args:
        config: the options.
        acting: its row of the adapter's spec: the rank.
        site: the site: the widths.
    """

    def __init__(self, config: LoraConfig, acting: ActingSpec, site: SiteSpec) -> None:
        super().__init__(config, acting, site)
        self.reset()

    def downs(self) -> tuple[Tensor, ...]:
        """The first factor."""
        return (self.a,)

    def up(self) -> Tensor:
        """The second one."""
        return self.b

    def sources(self) -> tuple[Tensor, ...]:
        """It is a weight itself."""
        return (self.b,)
