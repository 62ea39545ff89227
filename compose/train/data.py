"""Labelled examples from files with a JSON object on each line. Needs no torch."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from compose.errors import FileError, Problem

Input = str | tuple[str, str] | list[str]
"""A text, a pair of texts, or the words of a text."""

Target = Literal["label", "entities", "tags"]

Span = tuple[int, int, str]
"""Start, end (exclusive) and type of an entity, in characters of its text."""


@dataclass(frozen=True)
class Example:
    """One labelled input.

    Args:
        input: a text, a pair or words.
        target: a label (text, number, or texts for several); a tuple of `Span`s; or a tag for each word.
    """

    input: Input
    target: Any


@dataclass(frozen=True)
class Columns:
    """Which field of a row holds what; see `target`."""

    text: str = "text"
    pair: str | None = None
    tokens: str | None = None
    label: str | None = None
    entities: str | None = None
    tags: str | None = None

    @property
    def target(self) -> Target:
        """What the examples are labelled with."""
        return "entities" if self.entities else "tags" if self.tags else "label"

    def names(self) -> tuple[str, ...]:
        """The fields that a row must have."""
        inputs = (self.tokens,) if self.tokens else (self.text, self.pair)
        return tuple(name for name in (*inputs, self.label, self.entities, self.tags) if name)


@dataclass(frozen=True)
class Dataset:
    """Examples of one task.

    Args:
        name: of the source.
        target: what they are labelled with.
        train: examples to learn from.
        test: examples to score on.
    """

    name: str
    target: Target
    train: tuple[Example, ...]
    test: tuple[Example, ...] = ()

    def labels(self) -> list[str]:
        """The labels that a head needs: in order of their names; for tagging `O` and then each type's."""
        every = (*self.train, *self.test)
        if self.target == "entities":
            kinds = sorted({kind for example in every for _, _, kind in example.target})
            return ["O", *(f"{mark}-{kind}" for kind in kinds for mark in "BI")]
        found: set[str] = set()
        for example in every:
            found.update([example.target] if isinstance(example.target, str) else example.target)
        return sorted(found, key=lambda tag: (tag != "O", tag)) if self.target == "tags" else sorted(found)


def read_dataset(
    name: str, columns: Columns, train: Path, test: Path | None, sizes: Mapping[str, int | None], seed: int
) -> Dataset:
    """A task's examples from its files.

    Args:
        name: of the source, for errors.
        columns: which field holds what.
        train: the file of the training part.
        test: that of the test part, if there is one.
        sizes: how many examples of `train` and `test` to draw; all where None.
        seed: of the drawing.

    Raises:
        FileError: files that are missing or damaged, or lack a column.
    """
    parts = {
        part: sample(read_examples(path, columns), sizes.get(part), seed) if path else ()
        for part, path in (("train", train), ("test", test))
    }
    return Dataset(name, columns.target, parts["train"], parts["test"])


def read_examples(path: Path, columns: Columns, limit: int | None = None) -> tuple[Example, ...]:
    """The examples of a file, the first `limit` of them.

    Raises:
        FileError: naming the file and line of everything that is wrong.
    """
    examples: list[Example] = []
    problems: list[Problem] = []
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                if limit is not None and len(examples) >= limit:
                    break
                try:
                    examples.append(_example(json.loads(line.rstrip()), columns))
                except json.JSONDecodeError as error:
                    problems.append(Problem(f"not JSON: {error.msg}", where=f"{path}:{number}:{error.colno}"))
                except _RowError as error:
                    problem = error.problem
                    problems.append(replace(problem, where=f"{path}:{number}"))
                if len(problems) > 20:
                    break
    except OSError as error:
        raise FileError(f"cannot be read: {error.strerror or error}", where=str(path)) from None
    except UnicodeDecodeError as error:
        raise FileError(f"not UTF-8: {error.reason}", where=str(path)) from None
    if not problems and not examples:
        problems.append(Problem("there are no rows in it", where=str(path)))
    if problems:
        raise FileError(problems)
    return tuple(examples)


def sample(examples: Sequence[Example], count: int | None, seed: int) -> tuple[Example, ...]:
    """Some of the examples, in their order: for labels, as many of each as their shares say.

    >>> rows = [Example(str(i), "yes" if i % 3 else "no") for i in range(30)]
    >>> [row.target for row in sample(rows, 6, seed=1)].count("no")
    2
    """
    if count is None or count >= len(examples):
        return tuple(examples)
    draw = random.Random(seed)
    groups: dict[str, list[int]] = {}
    for index, example in enumerate(examples):
        key = example.target if isinstance(example.target, str) else ""
        groups.setdefault(key, []).append(index)
    for members in groups.values():
        draw.shuffle(members)
    # Taken by their place within their own label: every prefix of this order has the shares of the whole.
    ranked = sorted(
        ((place + 0.5) / len(members), key, index)
        for key, members in groups.items()
        for place, index in enumerate(members)
    )
    return tuple(examples[index] for index in sorted(index for _, _, index in ranked[:count]))


class _RowError(Exception):
    def __init__(self, what: str, **fields: Any) -> None:
        super().__init__(what)
        self.problem = Problem(what, **fields)


def _example(row: object, columns: Columns) -> Example:
    if not isinstance(row, dict):
        raise _RowError(f"a {type(row).__name__}, but a line holds a JSON object")
    for name in columns.names():
        if name not in row:
            raise _RowError(f"there is no column '{name}'", got=name, legal=tuple(map(str, row)))
    return Example(_input(row, columns), _target(row, columns))


def _input(row: Mapping[str, Any], columns: Columns) -> Input:
    if columns.tokens:
        words = row[columns.tokens]
        _require(_is_texts(words) and words, f"'{columns.tokens}' must be a list of words")
        return list(words)
    text = row[columns.text]
    _require(isinstance(text, str), f"'{columns.text}' must be a text")
    if columns.pair is None:
        return str(text)
    _require(isinstance(row[columns.pair], str), f"'{columns.pair}' must be a text")
    return str(text), str(row[columns.pair])


def _target(row: Mapping[str, Any], columns: Columns) -> Any:
    if columns.label:
        label = row[columns.label]
        fits = _is_texts(label) or (isinstance(label, str | int | float) and not isinstance(label, bool))
        _require(fits, f"'{columns.label}' must be a text, a number or a list of texts")
        return tuple(label) if isinstance(label, list) else str(label) if isinstance(label, int) else label
    if columns.tags:
        tags = row[columns.tags]
        count = len(row[columns.tokens or ""])
        _require(
            _is_texts(tags) and len(tags) == count,
            f"'{columns.tags}' must be a tag for each of {count} words",
        )
        return tuple(tags)
    text, spans = row[columns.text], row[columns.entities or ""]
    _require(isinstance(spans, list), f"'{columns.entities}' must be a list of entities")
    return tuple(_span(span, len(text)) for span in spans)


def _span(span: object, length: int) -> Span:
    wanted = "an entity has a start, an end within the text and a type"
    _require(isinstance(span, dict) and {"start", "end", "type"} <= set(span), wanted)
    assert isinstance(span, dict)
    start, end, kind = span["start"], span["end"], span["type"]
    whole = isinstance(start, int) and isinstance(end, int) and isinstance(kind, str)
    _require(whole and 0 <= start < end <= length, wanted)
    return start, end, kind


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _require(holds: object, what: str) -> None:
    if not holds:
        raise _RowError(what)
