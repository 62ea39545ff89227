"""The normal form of an expression: a list of branches without a Parallel inside."""

from __future__ import annotations

from typing import NamedTuple

from compose.dsl.block import MAX_NODES, Block, Expression, with_children
from compose.dsl.blocks import Drop, Parallel, Stack
from compose.dsl.check import check_nesting, has_parallel
from compose.dsl.format import marked
from compose.dsl.outputs import Branch, outputs
from compose.dsl.tree import Path, own_name
from compose.errors import CompileError

MAX_WRITTEN = 10 * MAX_NODES
"""Nodes of all branches together."""


class Spread(NamedTuple):
    """A branch on its way out; `path` leads to the child that a keyword names, if one does."""

    task: str | None
    expression: Expression
    path: Path | None


def branches(expression: Expression) -> tuple[Branch, ...]:
    """The branches of an expression, in order.

    A Parallel gives one branch per child, its task the keyword or else the child's own name; nested ones
    flatten; a Stack or Drop around one goes into each branch. Anything else is a single branch.

    Args:
        expression: any expression.

    Returns:
        The branches; none contains a Parallel.

    Raises:
        CompileError: a nesting that has no meaning, marked under the text.

    >>> from compose.dsl.blocks import Parallel, Stack
    >>> for branch in branches(Stack("en", Parallel("ner", tags="pos"))):
    ...     print(branch.task, branch.expression)
    ner Stack("en", "ner")
    tags Stack("en", "pos")
    """
    check_nesting(expression)
    found = spread(expression, ())
    problems = [
        marked(
            expression,
            branch.path,
            f"the task '{branch.task}' names nothing",
            "the branch's outputs have tasks of their own",
            "leave the keyword out",
        )
        for branch in found
        if branch.path is not None and any(output.rows for output in outputs(branch.expression))
    ]
    if problems:
        raise CompileError(problems)
    return tuple(Branch(branch.task, branch.expression) for branch in found)


def spread(node: Expression, path: Path) -> list[Spread]:
    """The branches of a node whose nesting has a meaning."""
    if not has_parallel(node):
        return [Spread(own_name(node), node, None)]
    assert isinstance(node, Block)
    if isinstance(node, Parallel):
        found = []
        for index, (task, child) in enumerate(zip(node.tasks, node.children, strict=True)):
            place = (*path, index)
            found += spread(child, place) if task is None else [Spread(task, child, place)]
        return found
    assert isinstance(node, Stack | Drop)
    index = next(index for index, child in enumerate(node.children) if has_parallel(child))
    inner = spread(node.children[index], (*path, index))
    if len(inner) * node.size > MAX_WRITTEN:
        why = f"{len(inner)} branches around {node.size} nodes; all branches may have {MAX_WRITTEN}"
        raise CompileError("the branches are too large when written out", why=why)
    before, after = node.children[:index], node.children[index + 1 :]
    return [branch._replace(expression=with_children(node, [*before, branch.expression, *after])) for branch in inner]
