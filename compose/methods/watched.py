"""Whether a weight is still what it was when something was made from it.

Torch counts what is written to a tensor, but for steps of its fused optimizers and for what a CUDA graph replays. A
step needs a gradient, though. So the gradients that a weight gets are counted too, and where one waits to be stepped
on, values are compared.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

_HOOKING = threading.Lock()


class Gradients:
    """A hook of a weight that counts the gradients computed of it; copies and pickles of the weight are without it."""

    __torch_unserializable__ = True

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, gradient: Tensor) -> None:
        self.count += 1


def hook(weight: Tensor, call: Callable[[Tensor], Tensor | None]) -> None:
    """Calls something with each gradient of a weight, a frozen one's included, should it be trained later."""
    with _HOOKING:  # another thread is not to take for a choice what is passing
        asked = weight.requires_grad
        weight.requires_grad_(True)  # torch takes hooks of no others
        weight.register_hook(call)
        weight.requires_grad_(asked)


def gradients_of(tensor: Tensor) -> Gradients | None:
    """The count of a tensor's gradients, begun where there is none; None if it can have no gradient of its own."""
    if not tensor.is_leaf or not (tensor.is_floating_point() or tensor.is_complex()):
        return None
    for found in (tensor._backward_hooks or {}).values():
        if isinstance(found, Gradients):
            return found
    made = Gradients()
    hook(tensor, made)
    return made


class Watched(NamedTuple):
    """A weight as it was: whether it still is, `unchanged` tells.

    The alias keeps the memory from being given to another tensor, so that an address means what it meant; it shares
    the version that in-place changes count up. The values are kept of a weight whose gradient waits.
    Not seen are writes through `.data`, and steps on a gradient that was set by hand, came from no backward pass, and
    was taken away again before anyone asked.
    """

    owner: weakref.ref[Tensor]
    alias: Tensor
    version: int
    gradients: Gradients | None
    counted: int
    values: Tensor | None

    @classmethod
    def of(cls, tensor: Tensor) -> Watched:
        gradients = gradients_of(tensor)
        alias, count = tensor.detach(), 0 if gradients is None else gradients.count
        values = None if gradients is None or tensor.grad is None else alias.clone()
        return cls(weakref.ref(tensor), alias, tensor._version, gradients, count, values)

    def unchanged(self) -> bool:
        """Whether the weight is alive, in place, and not written to since."""
        now = self.owner()
        return (
            now is not None
            and now.data_ptr() == self.alias.data_ptr()
            and now._version == self.version
            and now.dtype == self.alias.dtype
            and now.device == self.alias.device
            and (self.gradients is None or self._unmoved(now, self.gradients))
        )

    def _unmoved(self, now: Tensor, gradients: Gradients) -> bool:
        """Whether no optimizer has moved the weight."""
        if self.values is None:
            return now.grad is None and gradients.count == self.counted
        # one whose gradient waits no more is made from anew, and then need not be compared
        return now.grad is not None and gradients.count == self.counted and torch.equal(now, self.values)
