"""Dropout that takes half the time on a CPU, where drawing random numbers is most of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def dropout(states: Tensor, p: float, training: bool) -> Tensor:
    """`torch.nn.functional.dropout`, with other random numbers of the same generator on a CPU.

    There torch draws 64 bits for each value, one after the other; here they serve two.

    Args:
        states: of any shape.
        p: the probability that a value becomes 0, to within 2^-32; the others are divided by 1 - p.
        training: whether there is dropout.
    """
    if not training or not 0 < p < 1 or states.device.type != "cpu" or torch.compiler.is_compiling():
        return functional.dropout(states, p, training)
    count = states.numel()
    drawn = torch.empty((count + 1) // 2, dtype=torch.int64).random_(-(2**63), None)
    kept = drawn.view(torch.int32)[:count].view(states.shape) >= min(round(p * 2**32), 2**32 - 1) - 2**31
    return states * kept.to(states.dtype).div_(1 - p)


class Dropout(nn.Dropout):
    """`dropout` as a module."""

    def forward(self, input: Tensor) -> Tensor:
        """Its input with dropout, in training."""
        return dropout(input, self.p, self.training)
