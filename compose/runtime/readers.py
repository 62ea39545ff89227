"""How inputs become rows of a backbone, and rows a batch: a reader for each modality."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from compose.errors import InputError, Problem
from compose.heads.spans import Source
from compose.runtime.image import Image
from compose.runtime.texts import Input, Item, Row, batch_of, check, encode, longest

if TYPE_CHECKING:
    from compose.runtime.model import Model

MIDDLE = 0.5
"""Pixels are numbers from 0 to 1, and ViT reads them from -1 to 1."""


class Reader(ABC):
    """Reads inputs for one model's backbone.

    Args:
        model: the model.
    """

    def __init__(self, model: Model) -> None:
        self.model = model

    @abstractmethod
    def lacking(self) -> Problem | None:
        """What the model lacks for inputs to be read; None: nothing."""

    @abstractmethod
    def check(self, inputs: object) -> list[Any]:
        """The inputs, if each is one that the backbone reads.

        Raises:
            InputError: some are not; all of them at once.
        """

    @abstractmethod
    def encode(
        self,
        inputs: Sequence[Any],
        truncate: bool = False,
        stride: int | None = None,
        words: bool | None = None,
        tokens: bool = False,
    ) -> list[Item]:
        """Checked inputs as rows.

        Args:
            inputs: checked ones.
            truncate: cut what is longer than the backbone takes.
            stride: instead, cut it into windows that overlap by so many tokens.
            words: whether words are needed; None: where they can be found.
            tokens: whether rows keep where each token comes from.

        Raises:
            InputError: some inputs are too long and neither way was chosen.
        """

    @abstractmethod
    def batch(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        """Rows as one batch, on the backbone's device."""

    @abstractmethod
    def key(self, row: Row) -> Hashable:
        """What tells a row from others: rows of one key have the same states."""


class Texts(Reader):
    """Texts, pairs of texts and lists of words, by the model's tokenizer."""

    def lacking(self) -> Problem | None:
        if self.model.tokenizer is not None:
            return None
        return Problem("the model has no tokenizer, which texts need", hint="attach(model, tokenizer)")

    def check(self, inputs: object) -> list[Input]:
        return check(inputs)

    def encode(
        self,
        inputs: Sequence[Input],
        truncate: bool = False,
        stride: int | None = None,
        words: bool | None = None,
        tokens: bool = False,
    ) -> list[Item]:
        tokenizer = self.model.tokenizer
        limit = longest(tokenizer, self.model.backbone)
        wanted = tokenizer.is_fast if words is None else words
        return encode(tokenizer, inputs, limit, truncate, stride, wanted, tokens)

    def batch(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        return batch_of([row.features for row in rows], self.model.tokenizer, self.model.device)

    def key(self, row: Row) -> Hashable:
        return tuple(row.features["input_ids"])


class Images(Reader):
    """Images of the backbone's own size: `Image`, or arrays `[channels, height, width]` of numbers from 0 to 1."""

    def lacking(self) -> Problem | None:
        return None

    def check(self, inputs: object) -> list[Image]:
        every: list[Any] | None = None
        if isinstance(inputs, Iterable) and not isinstance(inputs, str | bytes | Mapping):
            with suppress(TypeError):  # an array without dimensions
                every = list(inputs)
        if every is None:
            what = f"inputs of type {type(inputs).__name__}, but a list of images is needed"
            raise InputError(what, why=f"the backbone reads images of {self._wanted()}", hint="[image]")
        found: list[Image] = []
        problems = []
        for index, given in enumerate(every):
            try:
                image = given if isinstance(given, Image) else Image.of(given)
            except (ValueError, TypeError, RuntimeError) as error:
                what, why = str(error), f"the backbone reads images of {self._wanted()}, numbers from 0 to 1"
                problems.append(Problem(what, where=f"input {index}", why=why))
                continue
            if image.size != self._wanted():
                what = f"an image of {image.size}, but the backbone takes {self._wanted()}"
                problems.append(Problem(what, where=f"input {index}", why="channels x height x width"))
            found.append(image)
        if problems:
            raise InputError(problems)
        return found

    def encode(
        self,
        inputs: Sequence[Image],
        truncate: bool = False,
        stride: int | None = None,
        words: bool | None = None,
        tokens: bool = False,
    ) -> list[Item]:
        places = (None,) * (self.model.spec.tokens or 1)
        return [
            Item(Source((repr(image),), ()), (Row({"pixel_values": torch.from_numpy(_scaled(image))}, places),))
            for image in inputs
        ]

    def batch(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        return {"pixel_values": torch.stack([row.features["pixel_values"] for row in rows]).to(self.model.device)}

    def key(self, row: Row) -> Hashable:
        pixels: bytes = row.features["pixel_values"].numpy().tobytes()
        return pixels

    def _wanted(self) -> str:
        config = self.model.config
        size = config.image_size
        height, width = (size, size) if isinstance(size, int) else size
        return f"{config.num_channels} x {height} x {width}"


READERS: Mapping[str, type[Reader]] = {"text": Texts, "image": Images}
"""The reader of each modality."""


def reader_of(model: Model) -> Reader:
    """What reads inputs for a model."""
    return READERS[model.spec.modality](model)


def _scaled(image: Image) -> np.ndarray[Any, np.dtype[np.float32]]:
    return (image.array() - np.float32(MIDDLE)) / np.float32(MIDDLE)
