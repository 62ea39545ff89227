"""An image as recipes, training and `predict` hand it on. Needs no torch, nor numpy before there is one."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, repr=False)
class Image:
    """An image of numbers from 0 (black) to 1; equal ones are equal, and can be keys.

    Args:
        shape: channels, height and width.
        data: the numbers in that order, of 4 bytes each (float32).
    """

    shape: tuple[int, int, int]
    data: bytes

    @classmethod
    def of(cls, values: Any) -> Image:
        """An image of an array.

        Args:
            values: `[height, width]` or `[channels, height, width]`, numbers from 0 to 1: an array, a tensor, lists.

        Raises:
            ValueError: it is something else, in words that say what.
        """
        import numpy as np

        array = np.asarray(values)
        if array.dtype.kind not in "fiub":
            raise ValueError(f"{type(values).__name__} where an image is needed")
        if array.ndim not in (2, 3) or not array.size:
            raise ValueError(f"an array of shape {list(array.shape)}, but an image is [channels, height, width]")
        found = np.ascontiguousarray(array if array.ndim == 3 else array[None], np.float32)
        if not (found.min() >= 0 and found.max() <= 1):  # not-a-number is neither
            raise ValueError("numbers that are not between 0 and 1")
        channels, height, width = found.shape
        return cls((channels, height, width), found.tobytes())

    def array(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        """The numbers, `[channels, height, width]`."""
        import numpy as np

        return np.frombuffer(self.data, np.float32).reshape(self.shape)

    @property
    def size(self) -> str:
        """Its shape in words, such as `1 x 8 x 8`."""
        return " x ".join(map(str, self.shape))

    def __repr__(self) -> str:
        return f"Image({self.size}, {hashlib.sha256(self.data).hexdigest()})"
