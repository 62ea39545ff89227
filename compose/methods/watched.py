"""Whether a weight is still what it was when something was made from it."""

from __future__ import annotations

import weakref
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

MARK = "_compose_watched"
"""The attribute of weights of which somebody wants to know when they change."""


def watch(tensor: Tensor) -> None:
    """Has steps of optimizers count as changes of a tensor, all of them: torch's fused ones count none."""
    setattr(tensor, MARK, True)


def _count_step(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    weights = (weight for group in optimizer.param_groups for weight in group["params"])
    stepped = [weight for weight in weights if hasattr(weight, MARK) and weight.grad is not None]
    if stepped:
        torch.autograd.graph.increment_version(stepped)


register_optimizer_step_post_hook(_count_step)


class Watched(NamedTuple):
    """A weight as it was: whether it still is, `unchanged` tells.

    The alias keeps the memory from being given to another tensor, so that an address means
    what it meant; it shares the version that every in-place change counts up.
    """

    owner: weakref.ref[Tensor]
    alias: Tensor
    version: int

    @classmethod
    def of(cls, tensor: Tensor) -> Watched:
        watch(tensor)
        return cls(weakref.ref(tensor), tensor.detach(), tensor._version)

    def unchanged(self) -> bool:
        """Whether the weight is alive, in place, and not written to since."""
        now = self.owner()
        return (
            now is not None
            and now.data_ptr() == self.alias.data_ptr()
            and now._version == self.version
            and now.dtype == self.alias.dtype
            and now.device == self.alias.device
        )
