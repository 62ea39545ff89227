"""scikit-learn's digits: 1,797 drawings of 8 x 8 pixels, which come with it, and what can be said of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from compose.runtime.image import Image
from compose.train.columns import Columns
from compose.train.extras import require
from compose.train.formats.row import Part, Row, Rows

IMAGE = "image"
"""The column of the drawing."""

WHITE = 16.0
"""The greatest number of a pixel."""

HEAVY = 5.0
"""The mean of pixels from which on a drawing has much ink; about half of them have."""

TEST = 4
"""Each fourth drawing is of the test part; the file has them in the order of their writers."""

ATTRIBUTES: Mapping[str, Callable[[int, float], str]] = {
    "digit": lambda digit, ink: str(digit),
    "parity": lambda digit, ink: "odd" if digit % 2 else "even",
    "above_4": lambda digit, ink: "yes" if digit > 4 else "no",
    "loop": lambda digit, ink: "closed" if digit in (0, 6, 8, 9) else "open",
    "ink": lambda digit, ink: "much" if ink >= HEAVY else "little",
}
"""What a drawing can be labelled with, made of its digit and the mean of its pixels."""


@dataclass(frozen=True)
class DigitsPart(Part):
    """A part of the digits: `test` is each fourth of them, `train` the others.

    Its columns are `image` and those of `ATTRIBUTES`.

    Args:
        part: which.
    """

    part: Literal["train", "test"]

    @property
    def where(self) -> str:
        return f"scikit-learn's digits, {self.part}"

    def rows(self, columns: Columns) -> Rows:
        data: Any = require("sklearn.datasets").load_digits()
        for number, (pixels, digit) in enumerate(zip(data.images, data.target, strict=True)):
            if (number % TEST == TEST - 1) == (self.part == "test"):
                ink = float(pixels.mean())
                said = {name: of(int(digit), ink) for name, of in ATTRIBUTES.items()}
                yield Row(f"scikit-learn's digits: {number}", {IMAGE: Image.of(pixels / WHITE), **said})
