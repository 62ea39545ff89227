"""Which nestings have a meaning, whatever the backbone and the adapters are."""

from __future__ import annotations

from collections.abc import Sequence

from compose.dsl.block import Block, Expression, with_children
from compose.dsl.blocks import Average, BatchSplit, Fuse, Parallel, Route, Split, Stack
from compose.dsl.format import marked
from compose.dsl.outputs import outputs
from compose.dsl.tree import Path, own_name, walk
from compose.errors import CompileError, ExpressionError, Problem

READABLE = 200

CLOSED: dict[type[Block], str] = {
    Fuse: "a Fuse weighs increments of one value, and a Parallel makes several",
    Average: "an Average sums results of one value, and a Parallel makes several",
    Split: "a Split joins its children's tokens to one sequence, and a Parallel makes several",
    BatchSplit: "a BatchSplit gives each row to one child, and a Parallel gives it to several branches",
    Route: "a Route gives each row to one child, and a Parallel gives it to several branches",
}
"""The blocks that cannot have branches inside, and why."""


def has_parallel(expression: Expression) -> bool:
    """Whether there is a Parallel anywhere in an expression."""
    return any(isinstance(node, Parallel) for _, node in walk(expression))


def check_nesting(expression: Expression) -> None:
    """Refuse nestings without a meaning.

    Args:
        expression: the whole expression.

    Raises:
        CompileError: every nesting that has no meaning, marked under the text.
    """
    problems: list[Problem] = []
    check_node(expression, expression, (), None, problems)
    if problems:
        raise CompileError(problems)


def check_node(whole: Expression, node: Expression, path: Path, closed: Path | None, problems: list[Problem]) -> None:
    """Check a node and all below it; `closed` is the path of the nearest block that can have no branches."""
    if not isinstance(node, Block):
        return
    if isinstance(node, Parallel):
        if closed is not None:
            problems.append(enclosed(whole, path, closed))
            closed = None
        problems += [
            marked(
                whole,
                (*path, index),
                f"the task '{task}' is given to a Parallel",
                "a nested Parallel becomes several branches, each a task of its own",
                "name the tasks in the inner Parallel, and give it without a keyword",
            )
            for index, (task, child) in enumerate(zip(node.tasks, node.children, strict=True))
            if task is not None and has_parallel(child)
        ]
    elif type(node) in CLOSED:
        closed = path
    elif isinstance(node, Stack) and closed is None:
        problems += several(whole, node, path)
    if isinstance(node, Route):
        problems += routes(whole, node, path)
    for index, child in enumerate(node.children):
        check_node(whole, child, (*path, index), closed, problems)


def node_at(whole: Expression, path: Path) -> Expression:
    """The node that a path leads to."""
    for step in path:
        assert isinstance(whole, Block)
        whole = whole.children[step]
    return whole


def enclosed(whole: Expression, path: Path, closed: Path) -> Problem:
    """A Parallel inside a block that can have no branches."""
    outer, parallel = node_at(whole, closed), node_at(whole, path)
    assert isinstance(outer, Block) and isinstance(parallel, Parallel)
    name = type(outer).__name__
    hint = f"the {name} in each branch of one Parallel"
    if len(path) == len(closed) + 1 and not any(
        has_parallel(child) for place in (outer, parallel) for child in place.children if child is not parallel
    ):
        index = path[-1]
        branches = [
            with_children(outer, [*outer.children[:index], child, *outer.children[index + 1 :]])
            for child in parallel.children
        ]
        hint = written(parallel, branches) or hint
    return marked(whole, path, f"a Parallel inside a {name}", CLOSED[type(outer)], hint)


def written(parallel: Parallel, branches: Sequence[Block]) -> str:
    """The Parallel of `branches` with the tasks of `parallel` as a hint; empty if it is too long to read."""
    tasks = [task or own_name(child) for task, child in zip(parallel.tasks, parallel.children, strict=True)]
    named = {task: branch for task, branch in zip(tasks, branches, strict=True) if task is not None}
    one_each = all(len(found) == 1 and not found[0].rows for found in map(outputs, branches))
    try:
        better = Parallel(named) if one_each and len(named) == len(branches) else Parallel(*branches)
    except ExpressionError:  # larger than an expression may be
        return ""
    return better.text if len(better.text) <= READABLE else ""


def several(whole: Expression, stack: Stack, path: Path) -> list[Problem]:
    """More than one Parallel in a Stack."""
    found = [index for index, child in enumerate(stack.children) if has_parallel(child)]
    return [
        marked(
            whole,
            (*path, index),
            "a second Parallel in one Stack",
            "it does not say whether branches pair up or multiply",
            "the branches written out: Parallel(Stack(...), Stack(...))",
        )
        for index in found[1:]
    ]


def routes(whole: Expression, route: Route, path: Path) -> list[Problem]:
    """Children of a Route whose rows would have to be told apart once more."""
    problems = []
    for index, (task, child) in enumerate(zip(route.tasks, route.children, strict=True)):
        place = (*path, index)
        if has_parallel(child):
            continue
        inner = next((way for way, node in walk(child) if isinstance(node, Route)), None)
        if inner is not None:
            why = "a call names one task per row, and the outer Route has used it"
            problems.append(marked(whole, (*place, *inner), "a Route inside a Route", why, "one Route of all tasks"))
        elif len(outputs(child)) != 1:
            why = f"the rows routed to '{task}' go to one head"
            hint = "a task for each child, in the Route itself"
            problems.append(marked(whole, place, f"the child '{task}' of a Route has several outputs", why, hint))
    return problems
