"""Computes the same operation on the same input once."""

from __future__ import annotations

from compose.graph.graph import Graph, Rewriter
from compose.passes.base import PassContext
from compose.passes.values import value_numbers


def share(graph: Graph, context: PassContext) -> Graph:
    """Equal nodes within a branch become one, and branches that never part become one.

    `Fuse("a", Stack("a", "b"))` runs `a` once; `Parallel(t1="a", t2="a")` is one branch with two heads.
    What branches share before they part is the matter of `fork`.
    """
    numbers = value_numbers(graph)
    first_with: dict[int, int] = {}
    stands_for = {branch: first_with.setdefault(numbers[state], branch) for branch, state in graph.states.items()}
    rewriter = Rewriter(graph)
    for node in graph:
        operation = graph.operation(node)
        if operation.kind == "fork":
            branch: int = operation.detail[0]  # type: ignore[assignment]
            operation = type(operation)("fork", detail=(stands_for[branch],))
        rewriter.intern(node, operation=operation)
    return rewriter.finish()
