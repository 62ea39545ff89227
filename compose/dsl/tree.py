"""Reading an expression: its nodes, names and adapters."""

from __future__ import annotations

from collections.abc import Iterator

from compose.dsl.block import Block, Expression
from compose.dsl.blocks import Drop, Fuse, Stack

Path = tuple[int, ...]
"""The way from an expression to one of its nodes: indices of children."""


def walk(expression: Expression, path: Path = ()) -> Iterator[tuple[Path, Expression]]:
    """Every node of an expression with its path, parents first, children in order.

    >>> from compose.dsl.blocks import Stack
    >>> list(walk(Stack("a", None)))
    [((), Stack("a", None)), ((0,), 'a'), ((1,), None)]
    """
    yield path, expression
    if isinstance(expression, Block):
        for index, child in enumerate(expression.children):
            yield from walk(child, (*path, index))


def own_name(expression: Expression) -> str | None:
    """An expression's own name, by which its task, head and fusion weights are found.

    An adapter's is its name; a Fuse's its `name=`, else its children's own names joined by commas; a
    Stack's its last child's; a Drop's that of what it wraps; None and the other blocks have none.

    >>> own_name(Stack("en", Fuse("a", None, "b")))
    'a,b'
    """
    match expression:
        case str():
            return expression
        case Fuse(name=str() as name):
            return name
        case Fuse():
            names = [name for name in map(own_name, expression.children) if name is not None]
            return ",".join(names) or None
        case Stack() | Drop():
            return own_name(expression.children[-1])
    return None


def leaves(expression: Expression) -> tuple[str, ...]:
    """The names of the adapters in an expression, in order, without repeats.

    >>> leaves(Stack("en", Fuse("a", None, "en")))
    ('en', 'a')
    """
    return tuple(dict.fromkeys(node for _, node in walk(expression) if isinstance(node, str)))


def fuses(expression: Expression) -> tuple[Fuse, ...]:
    """The Fuse blocks in an expression, outer ones first, without repeats.

    >>> fuses(Fuse("a", Fuse("b", "c", name="f")))
    (Fuse("a", Fuse("b", "c", name="f")), Fuse("b", "c", name="f"))
    """
    return tuple(dict.fromkeys(node for _, node in walk(expression) if isinstance(node, Fuse)))
