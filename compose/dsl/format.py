"""The text form of expressions, with the place of every node in it."""

from __future__ import annotations

from compose.dsl.block import Block, Expression, text_of
from compose.dsl.tree import Path
from compose.errors import Problem

Span = tuple[int, int]


def to_text(expression: Expression) -> str:
    """The text form of an expression: what `repr` of a block gives and `parse` reads.

    >>> to_text("nli"), to_text(None)
    ('"nli"', 'None')
    """
    return text_of(expression)


def locate(expression: Expression, path: Path) -> tuple[str, Span]:
    """The place of a node in the text form.

    Args:
        expression: the whole expression.
        path: the way to the node, as `walk` gives it.

    Returns:
        The text form of the whole, and start and end (exclusive) of the node's part of it.

    >>> from compose.dsl.blocks import Stack
    >>> locate(Stack("en", "ner"), (1,))
    ('Stack("en", "ner")', (12, 17))
    """
    start, node = 0, expression
    for step in path:
        if not isinstance(node, Block):
            raise IndexError(f"no node at {path}")
        for piece in node.pieces():
            if piece == step and not isinstance(piece, str):
                break
            start += len(piece if isinstance(piece, str) else text_of(node.children[piece]))
        node = node.children[step]
    return text_of(expression), (start, start + len(text_of(node)))


def marked(expression: Expression, path: Path, what: str, why: str = "", hint: str = "") -> Problem:
    """A problem of one node, marked under the text of the whole expression."""
    text, span = locate(expression, path)
    return Problem(what, why=why, hint=hint, text=text, span=span)
