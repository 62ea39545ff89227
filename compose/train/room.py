"""Memory for one large tensor after another: what is fresh costs more than to fill it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


class Room:
    """Gives tensors that lie in the same memory, of which one is in use at a time."""

    def __init__(self) -> None:
        self._memory = torch.empty(0)

    def tensor(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A tensor on the CPU that holds whatever was there before; the one given before it is overwritten.

        Args:
            shape: its sizes.
            dtype: its type.
        """
        count = math.prod(shape)
        if self._memory.dtype != dtype or len(self._memory) < count:
            self._memory = torch.empty(count, dtype=dtype)
        return self._memory[:count].view(*shape)
