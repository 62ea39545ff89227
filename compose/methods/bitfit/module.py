"""BitFit's weights at one site: a difference of its bias."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from compose.methods.bitfit.spec import BitFitConfig
from compose.methods.part import Context, Part
from compose.specs import ActingSpec, SiteSpec


class BitFitPart(Part):
    """What is added to a bias: e(y; c) = y + d. It starts at zero.

    Args:
        config: the options.
        acting: its row of the adapter's spec.
        site: the site: the width.
    """

    has_increment = False

    def __init__(self, config: BitFitConfig, acting: ActingSpec, site: SiteSpec) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(site.width_out))

    def forward(self, y: Tensor, context: Context) -> Tensor:
        """The value with the difference."""
        return y + self.bias

    @classmethod
    def grouped(cls, parts: Sequence[BitFitPart], ys: Tensor, context: Context) -> Tensor:
        """n parts in one sum; see `Part.grouped`."""
        return ys + torch.stack([part.bias for part in parts])[:, None, None]
