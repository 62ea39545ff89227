"""AdamW, what decays, and how the learning rate goes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from compose.train.settings import Scheduler, Settings

if TYPE_CHECKING:
    from compose.runtime.model import Model


def make_optimizer(model: Model, trained: Sequence[nn.Parameter], settings: Settings) -> torch.optim.Optimizer:
    """AdamW; what does not decay: biases, norms, and what fusions except: value matrices, scales."""
    drawn = {id(parameter) for _, fusion in model.fusions.items() for parameter in fusion.undecayed()}
    matrices = [parameter for parameter in trained if parameter.dim() > 1 and id(parameter) not in drawn]
    others = [parameter for parameter in trained if parameter.dim() <= 1 or id(parameter) in drawn]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate)


def make_schedule(optimizer: torch.optim.Optimizer, total: int, settings: Settings) -> LambdaLR:
    """The learning rate of each of `total` steps: it rises, and then goes on as the scheduler says."""
    rising = max(1, round(total * settings.warmup))
    after = SCHEDULERS[settings.scheduler]

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        return after(max(0.0, (total - step) / max(1, total - rising)))

    return LambdaLR(optimizer, factor)


SCHEDULERS: Mapping[Scheduler, Callable[[float], float]] = {
    "linear": lambda left: left,
    "cosine": lambda left: (1 - math.cos(math.pi * left)) / 2,
    "constant": lambda left: 1.0,
}
"""The learning rate, as a share of the highest, by the share of the steps after warming up that are left."""
