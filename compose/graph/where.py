"""Where in the text of an expression a problem is."""

from __future__ import annotations

from typing import TypedDict

from compose.dsl import Expression, locate, walk


class Mark(TypedDict, total=False):
    """The fields of a `Problem` that mark a place."""

    text: str
    span: tuple[int, int]


def marked(expression: Expression, node: Expression) -> Mark:
    """Marks the first occurrence of `node` in `expression`; all of it if it is not there as such."""
    for path, found in walk(expression):
        if type(found) is type(node) and found == node:
            text, span = locate(expression, path)
            return {"text": text, "span": span}
    text, span = locate(expression, ())
    return {"text": text, "span": span}
