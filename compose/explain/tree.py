"""An expression as a tree of lines."""

from __future__ import annotations

from compose.dsl import Block, Expression, to_text


def tree(expression: Expression) -> str:
    """The expression, one node a line.

    >>> from compose.dsl import Fuse, Parallel
    >>> print(tree(Parallel("nli", tone=Fuse("a", "b", name="f"))))
    Parallel
    ├─ nli
    └─ tone = Fuse (name="f")
       ├─ a
       └─ b
    """
    return "\n".join(_lines(expression))


def _lines(expression: Expression) -> list[str]:
    if not isinstance(expression, Block):
        return ["None" if expression is None else expression]
    options = ", ".join(f"{name}={_literal(value)}" for name, value in expression.options.items())
    lines = [f"{type(expression).__name__}{f' ({options})' if options else ''}"]
    last = len(expression.children) - 1
    for index, (label, child) in enumerate(zip(expression.labels, expression.children, strict=True)):
        head, *rest = _lines(child)
        named = f"{label} = {head}" if label is not None else head
        lines.append(f"{'└─' if index == last else '├─'} {named}")
        lines += [f"{'  ' if index == last else '│ '} {line}" for line in rest]
    return lines


def _literal(value: object) -> str:
    return to_text(value) if isinstance(value, str) else repr(value)
