"""How weights start, from a generator of their own where a seed is given."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def generator(seed: int | None) -> torch.Generator | None:
    """A generator for a seed; None, the global one, without."""
    return None if seed is None else torch.Generator().manual_seed(seed)


def normal(weight: Tensor, source: torch.Generator | None) -> None:
    """Normal with standard deviation 0.02, as BERT starts."""
    nn.init.normal_(weight, std=0.02, generator=source)


def kaiming(weight: Tensor, source: torch.Generator | None) -> None:
    """Uniform in +-1/sqrt(width_in), as a linear map's weight starts by default."""
    nn.init.kaiming_uniform_(weight, a=math.sqrt(5), generator=source)


def truncated(weight: Tensor, source: torch.Generator | None) -> None:
    """Normal with standard deviation 0.01, cut at two of them."""
    nn.init.trunc_normal_(weight, std=0.01, a=-0.02, b=0.02, generator=source)


def linear(width_in: int, width_out: int, bias: bool = True) -> nn.Linear:
    """A linear map with zero bias and an unset weight, which draws no random numbers."""
    made = nn.utils.skip_init(nn.Linear, width_in, width_out, bias=bias)
    if bias:
        nn.init.zeros_(made.bias)
    return made


def gate(width_in: int) -> nn.Linear:
    """The map of a gate: one value a token."""
    return linear(width_in, 1)
