"""`predict`: what to answer."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from compose.recipes.schema.base import Count, Section, Text


class Compare(Section):
    """One pass against separate passes: for which numbers of messages, and how often timed."""

    messages: Annotated[tuple[Count, ...], Field(min_length=1)] = (1, 32)
    repeats: Count = 5


class Predict(Section):
    """Messages to answer with an expression; it is what `compose predict` runs later."""

    expression: Text
    texts: tuple[Text, ...] = ()
    compare: Compare | None = None
