"""Dropout that takes less time on a CPU, where drawing random numbers is most of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

CHOICES = 2**16
"""How many values 16 drawn bits have."""

LEAST = 2**-8
"""Of probabilities nearer to 0 or 1 torch draws: 16 bits would be coarse."""


def dropout(states: Tensor, p: float, training: bool) -> Tensor:
    """`torch.nn.functional.dropout`, with other random numbers of the same generator on a CPU.

    There torch draws 64 bits for each value, one after the other; here they serve four.

    Args:
        states: of any shape.
        p: the probability that a value becomes 0, to within 2^-17; the others are divided by the probability that they
            stay, so that means are those of the states.
        training: whether there is dropout.
    """
    if not training or not LEAST <= p <= 1 - LEAST or states.device.type != "cpu" or torch.compiler.is_compiling():
        return functional.dropout(states, p, training)
    count = states.numel()
    zeros = round(p * CHOICES)
    drawn = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    kept = drawn.view(torch.int16)[:count].view(states.shape) >= zeros - CHOICES // 2
    return states * kept.to(states.dtype).mul_(CHOICES / (CHOICES - zeros))


class Dropout(nn.Dropout):
    """`dropout` as a module."""

    def forward(self, input: Tensor) -> Tensor:
        """Its input with dropout, in training."""
        return dropout(input, self.p, self.training)
