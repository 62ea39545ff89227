"""`predict`: what to answer."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from compose.recipes.schema.base import Count, Section, Text


class Compare(Section):
    """One pass against separate passes.

    Args:
        messages: for how many messages at a time, each in turn.
        repeats: how often each is timed.
    """

    messages: Annotated[tuple[Count, ...], Field(min_length=1)] = (1, 32)
    repeats: Count = 5


class Predict(Section):
    """Messages to answer with an expression; it is what `compose predict` runs later.

    Args:
        expression: what answers.
        texts: the messages.
        examples: how many inputs of the test part of the expression's first task to answer, too.
        compare: whether one pass for all tasks is timed against a pass for each.
    """

    expression: Text
    texts: tuple[Text, ...] = ()
    examples: Count | None = None
    compare: Compare | None = None
