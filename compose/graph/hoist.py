"""Moves what cuts a value up out of the Fuses that it stands in: each piece has a Fuse of its own.

`Fuse("c", Route(t="a", u="b"))` is `Route(t=Fuse("c", "a"), u=Fuse("c", "b"))`: which candidates there are and
whose options prepare the input is then each piece's own, as it is where the piece is the whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NoReturn

from compose.dsl import BatchSplit, Block, Expression, Fuse, Route, Routed, Split, own_name, walk, with_children
from compose.errors import CompileError, Problem
from compose.graph.pieces import Cut, Selector, pieces
from compose.graph.where import marked


def cuts_outside(expression: Expression, whole: Expression) -> Expression:
    """The same, with no Split, BatchSplit or Route inside a Fuse.

    Args:
        expression: one branch.
        whole: all of them. Rows may be routed to any task of it: a Route that does not name one leaves its rows out,
            and they are fused all the same.

    Raises:
        CompileError: blocks in a Fuse cut in ways of which no piece of one can hold pieces of the other.
    """
    if not isinstance(expression, Block) or not any(isinstance(node, Cut) for _, node in walk(expression)):
        return expression
    block = _rebuilt(expression, [cuts_outside(child, whole) for child in expression.children])
    return _parted(block, whole) if isinstance(block, Fuse) else block


def _parted(fuse: Expression, whole: Expression) -> Expression:
    """A Fuse in pieces; there are no others within it that have any."""
    cuts = list(_outermost(fuse))
    if not cuts:
        return fuse
    cut = next((cut for cut in cuts if all(_may_be_inside(other, cut) for other in cuts)), None)
    if cut is None:
        _refuse(cuts, whole)
    if isinstance(cut, Route):
        cut = Route({**dict.fromkeys(cut.tasks), **dict.fromkeys(_tasks(whole))})
    return with_children(cut, [_parted(_piece(fuse, selector), whole) for selector, _ in pieces(cut)])


def _tasks(expression: Expression) -> list[str]:
    return [task for _, node in walk(expression) if isinstance(node, Route) for task in node.tasks]


def _outermost(expression: Expression) -> Iterator[Cut]:
    """The blocks that cut the expression's own value, and no piece of it."""
    if isinstance(expression, Cut):
        yield expression
    elif isinstance(expression, Block):
        for child in expression.children:
            yield from _outermost(child)


def _may_be_inside(other: Cut, cut: Cut) -> bool:
    """Whether a block means the same within pieces of another: sizes in it count rows, or tokens, of the whole."""
    counted = Split if isinstance(cut, Split) else BatchSplit
    return _selectors(other) == _selectors(cut) or not any(isinstance(node, counted) for _, node in walk(other))


def _selectors(cut: Cut) -> set[Selector]:
    return {selector for selector, _ in pieces(cut)}


def _piece(expression: Expression, selector: Selector) -> Expression:
    """What acts on a piece of the value."""
    if isinstance(expression, Cut):
        missing = None if isinstance(expression, Route) and isinstance(selector, Routed) else expression
        return dict(pieces(expression)).get(selector, missing)
    if isinstance(expression, Block):
        return _rebuilt(expression, [_piece(child, selector) for child in expression.children])
    return expression


def _rebuilt(block: Block, children: Sequence[Expression]) -> Block:
    """The block with other children; a Fuse keeps its weights, and so its own name."""
    return Fuse(*children, name=own_name(block)) if isinstance(block, Fuse) else with_children(block, children)


def _refuse(cuts: Sequence[Cut], whole: Expression) -> NoReturn:
    raise CompileError(
        [
            Problem(
                f"this {type(cut).__name__} and another block in the same Fuse cut it up in different ways",
                **marked(whole, cut),
                why="each piece has a Fuse of its own, and sizes of one block would count within the other's pieces",
                hint="the same sizes in both, or one of the blocks around the Fuse",
            )
            for cut in cuts
        ]
    )
