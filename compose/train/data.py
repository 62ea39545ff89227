"""Labelled examples, their data sets, and how some of them are drawn. Needs no torch."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from compose.runtime.image import Image

Input = str | tuple[str, str] | list[str] | Image
"""A text, a pair of texts, the words of a text, or an image."""

Target = Literal["label", "labels", "score", "entities", "tags", "answers", "text"]
"""What examples are labelled with; `text`: with nothing, they are texts alone."""

Span = tuple[int, int, str]
"""Start, end (exclusive) and type of an entity, in characters of its text; of an answer its text in place of a type."""


@dataclass(frozen=True)
class Example:
    """One labelled input.

    Args:
        input: a text, a pair, words or an image.
        target: a label (text, number, or texts for several); a tuple of `Span`s, of entities or of answers that are
            right (none: there is no answer); a tag for each word; or None.
    """

    input: Input
    target: Any


@dataclass(frozen=True)
class Dataset:
    """Examples of one task.

    Args:
        name: of the source.
        target: what they are labelled with.
        train: examples to learn from.
        test: examples to score on.
        validation: examples to choose by: when to stop, which of several runs.
        names: the labels in their order, where a map of labels says it.
    """

    name: str
    target: Target
    train: tuple[Example, ...]
    test: tuple[Example, ...] = ()
    validation: tuple[Example, ...] = ()
    names: tuple[str, ...] = ()

    def labels(self) -> list[str]:
        """The labels that a head needs: in order of their names; for tagging `O` and then each type's."""
        every = (*self.train, *self.validation, *self.test)
        if self.target in ("score", "answers", "text"):
            return []
        if self.target == "entities":
            kinds = sorted({kind for example in every for _, _, kind in example.target})
            return ["O", *(f"{mark}-{kind}" for kind in kinds for mark in "BI")]
        if self.names:
            return list(self.names)
        found: set[str] = set()
        for example in every:
            found.update([example.target] if isinstance(example.target, str) else example.target)
        numbers = all(name.isdecimal() for name in found)
        return sorted(found, key=lambda tag: (tag != "O", int(tag) if numbers else 0, tag))


def sample(examples: Sequence[Example], count: int | None, seed: int) -> tuple[Example, ...]:
    """Some of the examples, in their order: for labels, as many of each as their shares say.

    >>> rows = [Example(str(i), "yes" if i % 3 else "no") for i in range(30)]
    >>> [row.target for row in sample(rows, 6, seed=1)].count("no")
    2
    """
    if count is None or count >= len(examples):
        return tuple(examples)
    return tuple(examples[index] for index in sorted(_drawn(examples, count, seed)))


def hold_out(examples: Sequence[Example], share: float, seed: int) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Examples in two parts, each in their order: what is left, and a share, drawn as by `sample`.

    >>> left, held = hold_out([Example(str(i), "yes" if i % 3 else "no") for i in range(30)], 0.2, seed=1)
    >>> len(left), [row.target for row in held].count("no")
    (24, 2)
    """
    count = min(max(1, round(share * len(examples))), len(examples) - 1)
    chosen = set(_drawn(examples, count, seed))
    return (
        tuple(example for index, example in enumerate(examples) if index not in chosen),
        tuple(example for index, example in enumerate(examples) if index in chosen),
    )


def _drawn(examples: Sequence[Example], count: int, seed: int) -> list[int]:
    """The places of some of the examples."""
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
    return [index for _, _, index in ranked[:count]]
