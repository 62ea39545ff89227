"""Blocks that cut a value up: what selects each child's piece, and who closes pieces that differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from compose.dsl import BatchSplit, Expression, Route, Routed, Slice, Split
from compose.specs import Closing


@dataclass(frozen=True)
class Span:
    """Selects the `index`-th of consecutive token spans; a size of None takes the rest."""

    index: int
    sizes: tuple[int | None, ...]


Selector = Slice | Routed | Span
Cut = Split | BatchSplit | Route
"""The blocks that cut a value up."""


@dataclass(frozen=True)
class Apart:
    """Who closes a site where it is not the same for all of a value: each piece's own, by what selects it."""

    pieces: tuple[tuple[Selector, Closing | Apart], ...]


def pieces(expression: Cut) -> list[tuple[Selector, Expression]]:
    """The children of a block that cuts a value up, each with what selects its piece."""
    children = expression.children
    if isinstance(expression, Route):
        return [(Routed(task), child) for task, child in zip(expression.tasks, children, strict=True)]
    kind = Span if isinstance(expression, Split) else Slice
    return [(kind(index, expression.sizes), child) for index, child in enumerate(children)]


def closing_of(block: Cut, closings: Sequence[Closing | Apart]) -> Closing | Apart:
    """Who closes what a block makes of a value, from who closes each child's piece."""
    if len(set(closings)) == 1 and not isinstance(closings[0], Apart):
        return closings[0]
    return Apart(tuple((selector, own) for (selector, _), own in zip(pieces(block), closings, strict=True)))


def closing_within(closing: Closing | Apart, selector: Selector) -> Closing | Apart | None:
    """Who closes a piece of a value; None if it is none of those that are closed apart."""
    return dict(closing.pieces).get(selector) if isinstance(closing, Apart) else closing
