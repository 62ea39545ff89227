"""Whether a weight is still what it was when something was made from it."""

from __future__ import annotations

import weakref
from typing import NamedTuple

from torch import Tensor


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
