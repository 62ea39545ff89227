"""Python's syntax tree of a text, within bounds, and where its nodes are in the text."""

from __future__ import annotations

import ast
import re
from typing import TypeAlias

from compose.dsl.block import MAX_DEPTH, MAX_TEXT
from compose.dsl.blocks import BLOCKS
from compose.dsl.names import RULE
from compose.errors import ExpressionError
from compose.specs import NAME

MAX_BRACKETS = 2 * MAX_DEPTH + 1
"""A block opens at most two brackets, `Parallel({`, and an option of the innermost one more."""

Span: TypeAlias = tuple[int, int]
"""Start and end (exclusive) in a text, in characters."""


def check_bounds(text: str) -> None:
    """Refuse what Python's own parser should not be asked to read."""
    if len(text) > MAX_TEXT:
        raise ExpressionError(f"the text has {len(text)} characters", why=f"at most {MAX_TEXT} are legal")
    stripped = text.strip()
    if not stripped:
        raise ExpressionError("the text is empty", hint='Stack("a", "b"), "a" or None')
    if NAME.fullmatch(stripped) and stripped != "None":
        start = text.index(stripped)
        kind = "a block has children" if stripped in BLOCKS else "an adapter's name is written in quotes"
        hint = f'write {stripped}("a")' if stripped in BLOCKS else f'write "{stripped}"'
        raise ExpressionError(
            f"{stripped} stands alone", why=kind, hint=hint, text=text, span=(start, start + len(stripped))
        )
    depth = 0
    for place, character in enumerate(text):
        if character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        elif character == "\\":
            span = (place, place + 1)
            raise ExpressionError("a backslash has no meaning here", why=RULE, text=text, span=span)
        if depth > MAX_BRACKETS:
            why = f"at most {MAX_DEPTH} blocks may be nested"
            raise ExpressionError("brackets are nested too deep", why=why, text=text, span=(place, place + 1))


def tree_of(text: str) -> tuple[ast.expr, Positions]:
    """The syntax tree of a text, and where its nodes are in the text."""
    lead = len(text) - len(text.lstrip())
    source = re.sub("\r\n?", lambda match: " " * (len(match[0]) - 1) + "\n", text[lead:])
    positions = Positions(source, lead)
    try:
        return ast.parse(source, mode="eval").body, positions
    except SyntaxError as error:
        start = positions.of_error(error)
        what = "the text is not an expression"
        why = f"Python's grammar says: {error.msg}"
        raise ExpressionError(what, why=why, text=text, span=(start, start + 1)) from None
    except (ValueError, RecursionError, MemoryError) as error:
        why, whole = str(error) or "it is nested too deep", (0, len(text))
        raise ExpressionError("the text is not an expression", why=why, text=text, span=whole) from None


class Positions:
    """Where the nodes of a syntax tree are in the text: `ast` counts lines and bytes, we count characters."""

    def __init__(self, source: str, lead: int) -> None:
        self.lines = source.split("\n")
        self.starts = [lead]
        for line in self.lines:
            self.starts.append(self.starts[-1] + len(line) + 1)

    def span(self, node: ast.expr | ast.keyword) -> Span:
        """Start and end (exclusive) of a node."""
        return self.place(node.lineno, node.col_offset), self.place(
            node.end_lineno or node.lineno, node.end_col_offset or 0
        )

    def place(self, line: int, column: int) -> int:
        """A line from 1 on and a column in bytes as an index into the text."""
        before = self.lines[line - 1].encode()[:column]
        return self.starts[line - 1] + len(before.decode(errors="ignore"))

    def of_error(self, error: SyntaxError) -> int:
        """The place of a syntax error, which may lie beyond the text's end."""
        line = min(max(error.lineno or 1, 1), len(self.lines))
        column = min(max((error.offset or 1) - 1, 0), len(self.lines[line - 1]))
        return self.starts[line - 1] + column
