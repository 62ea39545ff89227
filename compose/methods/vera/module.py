"""A VeRA adapter's vectors at one linear map, and the random factors that all of its maps share."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from compose.methods import init
from compose.methods.linear.module import LowRankPart
from compose.methods.part import Shared
from compose.methods.vera.spec import VeraConfig
from compose.specs import ActingSpec, AdapterSpec, BackboneSpec, SiteSpec


class VeraFactors(nn.Module):
    """Two random factors, never trained, as wide as the widest site needs; narrower ones use the first columns or rows.

    Args:
        config: the options.
        spec: the adapter's spec.
        backbone: the backbone's.
    """

    a: Tensor
    b: Tensor

    def __init__(self, config: VeraConfig, spec: AdapterSpec, backbone: BackboneSpec) -> None:
        super().__init__()
        found = [(acting.layer, backbone.site(acting.layer, acting.site)) for acting in spec.parts]
        self.first = {(layer, site.name): config.first_row(backbone.layers[layer], site.name) for layer, site in found}
        source = init.generator(config.init_weights_seed)
        # buffers, not parameters: no regime may train them
        self.register_buffer("a", torch.empty(config.r, max(site.width_in for _, site in found)))
        self.register_buffer("b", torch.empty(config.rows(backbone, found), config.r))
        for factor in (self.a, self.b):
            nn.init.kaiming_uniform_(factor, generator=source)


class VeraPart(LowRankPart):
    """Vectors between shared factors: e(y; c) = y + scale * diag(b) @ B @ diag(d) @ A @ c.

    Args:
        config: the options.
        acting: its row of the adapter's spec: the rank.
        site: the site: the widths.
        factors: A and B, of which it uses its own columns and rows.
    """

    config: VeraConfig

    def __init__(self, config: VeraConfig, acting: ActingSpec, site: SiteSpec, factors: VeraFactors) -> None:
        super().__init__(config, site)
        self.width_in, self.width_out = site.width_in, site.width_out
        self.first = factors.first[acting.layer, acting.site]
        self.common = Shared(factors)
        shape = 2 if config.square else 1
        self.d = nn.Parameter(torch.empty((acting.rank,) * shape))
        self.b = nn.Parameter(torch.empty((site.width_out,) * shape))
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Start from the values that the options give."""
        for weight, start in ((self.d, self.config.vera_d), (self.b, self.config.vera_b)):
            ones = torch.ones(weight.shape[0]) * start
            weight.copy_(torch.diag(ones) if self.config.square else ones)
        if self.gate is not None:
            init.normal(self.gate.weight, init.generator(self.config.init_weights_seed))

    @property
    def factors_of_all(self) -> VeraFactors:
        """A and B."""
        return cast(VeraFactors, self.common.module)

    def downs(self) -> tuple[Tensor, ...]:
        """The shared factor, times d."""
        a = self.factors_of_all.a[:, : self.width_in]
        return (a, self.d) if self.config.square else (self.d.unsqueeze(1) * a,)

    def up(self) -> Tensor:
        """The other one, times b."""
        b = self.factors_of_all.b[self.first : self.first + self.width_out]
        return self.b @ b if self.config.square else self.b.unsqueeze(1) * b

    def sources(self) -> tuple[Tensor, ...]:
        """The vector and the shared factor."""
        return (self.b, self.factors_of_all.b)
