"""Which columns of a row hold what, and rows as examples. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from compose.errors import Problem
from compose.runtime.image import Image
from compose.train.answers import read_answers
from compose.train.data import Example, Input, Span, Target
from compose.train.row_error import RowError, require
from compose.train.schemes import Scheme, to_bio

TARGETS: tuple[Target, ...] = ("label", "labels", "score", "entities", "tags", "answers")
"""What a row can be labelled with; one of them, or none."""


Kind = Literal["image", "tokens", "pair", "text"]

INPUTS: Mapping[Kind, tuple[str, ...]] = {
    "image": ("image",),
    "tokens": ("tokens",),
    "pair": ("text", "pair"),
    "text": ("text",),
}
"""What a row's input can be, and the columns that it is read from: the first kind whose own column is named."""


@dataclass(frozen=True)
class Columns:
    """Which field of a row holds what; see `target`.

    Args:
        text: a text.
        pair: the second text of a pair.
        tokens: the words of a text, in place of `text`.
        image: an image, in place of `text`.
        label: a text or number (or texts, or a fraction, as `labels` and `score` have them).
        entities: a list of mappings with `start`, `end` and `type`.
        tags: a tag for each of the `tokens`.
        labels: a list of texts.
        score: a number.
        answers: the answers that are right to the question in `text`, in the text of `pair`; see `read_answers`.
        label_map: what labels, tags and entities' types are called; a value that it lacks is an error, and rows whose
            label it maps to None are left out.
        scheme: of the tags; they are brought to BIO.
    """

    text: str = "text"
    pair: str | None = None
    tokens: str | None = None
    image: str | None = None
    label: str | None = None
    entities: str | None = None
    tags: str | None = None
    labels: str | None = None
    score: str | None = None
    answers: str | None = None
    label_map: Mapping[str, str | None] | None = None
    scheme: Scheme = "bio"

    @property
    def target(self) -> Target:
        """What the examples are labelled with."""
        return next((target for target in TARGETS if getattr(self, target)), "text")

    @property
    def kind(self) -> Kind:
        """What the inputs are."""
        return next(kind for kind in INPUTS if getattr(self, kind))

    @property
    def modality(self) -> Literal["text", "image"]:
        """What a backbone must read for them."""
        return "image" if self.kind == "image" else "text"

    def names(self) -> tuple[str, ...]:
        """The fields that a row must have."""
        return tuple(name for key in (*INPUTS[self.kind], *TARGETS) if (name := getattr(self, key)))

    def label_names(self) -> tuple[str, ...]:
        """The labels in the order of `label_map`."""
        return tuple(dict.fromkeys(name for name in (self.label_map or {}).values() if name is not None))

    def example(self, row: Mapping[str, Any]) -> Example | None:
        """A row as an example; None if `label_map` leaves it out.

        Raises:
            RowError: the row lacks a column, or holds something else in it.
        """
        for name in self.names():
            if name not in row:
                raise RowError(f"there is no column '{name}'", got=name, legal=tuple(map(str, row)))
        inputs: Mapping[Kind, Callable[[Mapping[str, Any]], Input]] = {
            "image": self._image,
            "tokens": self._words,
            "pair": lambda row: (self._text(row, self.text), self._text(row, self.pair or "")),
            "text": lambda row: self._text(row, self.text),
        }
        given = inputs[self.kind](row)
        readers: Mapping[Target, Callable[[Mapping[str, Any]], Any]] = {
            "label": self._label,
            "labels": self._labels,
            "score": self._score,
            "entities": self._entities,
            "tags": self._tags,
            "answers": lambda row: read_answers(row[self.answers or ""], row[self.pair or self.text]),
            "text": lambda _: None,
        }
        target = readers[self.target](row)
        return None if target is None and self.label else Example(given, target)

    def _image(self, row: Mapping[str, Any]) -> Image:
        image = row[self.image or ""]
        require(isinstance(image, Image), f"'{self.image}' must be an image")
        assert isinstance(image, Image)
        return image

    def _words(self, row: Mapping[str, Any]) -> list[str]:
        words = row[self.tokens or ""]
        require(_is_texts(words) and words, f"'{self.tokens}' must be a list of words")
        return list(words)

    def _text(self, row: Mapping[str, Any], column: str) -> str:
        require(isinstance(row[column], str), f"'{column}' must be a text")
        return str(row[column])

    def _label(self, row: Mapping[str, Any]) -> Any:
        label = row[self.label or ""]
        if _is_texts(label):
            return self._renamed(label)
        number = isinstance(label, int | float) and not isinstance(label, bool) and math.isfinite(label)
        fits = number or isinstance(label, str)
        require(fits, f"'{self.label}' must be a text, a number or a list of texts")
        if isinstance(label, float) and self.label_map is None:
            return label
        return self._name(label)

    def _labels(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        labels = row[self.labels or ""]
        require(_is_names(labels), f"'{self.labels}' must be a list of texts")
        return self._renamed(labels)

    def _score(self, row: Mapping[str, Any]) -> float:
        score = row[self.score or ""]
        number = isinstance(score, int | float) and not isinstance(score, bool) and math.isfinite(score)
        require(number, f"'{self.score}' must be a number")
        return float(score)

    def _tags(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        tags = row[self.tags or ""]
        count = len(row[self.tokens or ""])
        fits = _is_names(tags) and len(tags) == count
        require(fits, f"'{self.tags}' must be a tag for each of {count} words")
        names = self._renamed(tags)
        try:
            return to_bio(names, self.scheme)
        except ValueError as error:
            raise RowError(f"'{error}' is no tag of the scheme {self.scheme}") from None

    def _entities(self, row: Mapping[str, Any]) -> tuple[Span, ...]:
        text, spans = row[self.text], row[self.entities or ""]
        require(isinstance(spans, list), f"'{self.entities}' must be a list of entities")
        found = [_span(span, len(text)) for span in spans]
        kinds = self._renamed(kind for _, _, kind in found)
        return tuple((start, end, kind) for (start, end, _), kind in zip(found, kinds, strict=True))

    def _renamed(self, values: Iterable[str | int]) -> tuple[str, ...]:
        """Each value's name; only a row's one label can be mapped to nothing."""
        names = [(value, self._name(value)) for value in values]
        for value, name in names:
            require(name is not None, f"'{value}' is mapped to nothing, which only a single label can be")
        return tuple(str(name) for _, name in names)

    def _name(self, value: str | float) -> str | None:
        if self.label_map is None:
            return str(value)
        plain = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
        if plain not in self.label_map:
            raise RowError(f"'label_map' has no '{plain}'", got=plain, legal=tuple(self.label_map))
        return self.label_map[plain]


def example_or_problem(columns: Columns, where: str, values: Mapping[str, Any]) -> Example | Problem | None:
    """A row as an example, or what is wrong with it at its place."""
    try:
        return columns.example(values)
    except RowError as error:
        return replace(error.problem, where=where)


def _span(span: object, length: int) -> Span:
    wanted = "an entity has a start, an end within the text and a type"
    require(isinstance(span, dict) and {"start", "end", "type"} <= set(span), wanted)
    assert isinstance(span, dict)
    start, end, kind = span["start"], span["end"], span["type"]
    whole = isinstance(start, int) and isinstance(end, int) and isinstance(kind, str)
    require(whole and 0 <= start < end <= length, wanted)
    return start, end, kind


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_names(value: object) -> bool:
    """Texts, or whole numbers in their place."""
    return isinstance(value, list) and all(isinstance(item, str | int) and not isinstance(item, bool) for item in value)
