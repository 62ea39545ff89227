"""Computes the same operation on the same input once."""

from __future__ import annotations

from compose.graph.graph import Graph, Operation, Rewriter
from compose.passes.base import PassContext
from compose.passes.values import value_numbers


def share(graph: Graph, context: PassContext) -> Graph:
    """Equal nodes within a branch become one, and branches that never part become one.

    `Fuse("a", Stack("a", "b"))` runs `a` once; `Parallel(t1="a", t2="a")` is one branch with two heads.
    What branches share before they part is the matter of `fork`.
    """
    return _read_increments(_merge(graph), context)


def _merge(graph: Graph) -> Graph:
    numbers = value_numbers(graph)
    first_with: dict[int, int] = {}
    stands_for = {branch: first_with.setdefault(numbers[state], branch) for branch, state in graph.states.items()}
    rewriter = Rewriter(graph)
    for node in graph:
        operation = graph.operation(node)
        if operation.kind == "fork":
            operation = operation._replace(detail=(stands_for[operation.branch],))
        rewriter.intern(node, operation=operation)
    return rewriter.finish()


def _read_increments(graph: Graph, context: PassContext) -> Graph:
    """An adapter whose increment a fusion weighs too takes it from there, if both read the same input."""
    increments: dict[tuple[object, ...], int] = {}
    for node in graph:
        operation = graph.operation(node)
        if operation.kind == "increment" and _same_input(operation, context):
            increments[_place(graph, node)] = node
    adapters = {
        node: increments[_place(graph, node)]
        for node in graph
        if graph.operation(node).kind == "adapter" and _place(graph, node) in increments
    }
    if not adapters:
        return graph
    rewriter = Rewriter(graph)
    for node in graph:
        if node in rewriter.at:
            continue
        if node in adapters:
            if adapters[node] not in rewriter.at:
                rewriter.copy(adapters[node])
            rewriter.copy(node, inputs=[*graph.inputs(node), adapters[node]])
        else:
            rewriter.copy(node)
    return rewriter.finish()


def _place(graph: Graph, node: int) -> tuple[object, ...]:
    operation = graph.operation(node)
    return (operation.layer, operation.site, operation.name, graph.inputs(node)[0])


def _same_input(increment: Operation, context: PassContext) -> bool:
    """Whether the options that prepare an increment's input are as its own adapter's.

    Parts of one shape prepare their input alike, or they could not run as one grouped product.
    """
    shapes = {
        context.vocabulary.adapters[name].by_site[increment.layer, increment.site].shape
        for name in (increment.name, increment.prepared_by)
    }
    return len(shapes) == 1
