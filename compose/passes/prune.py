"""Leaves out what no requested task needs."""

from __future__ import annotations

from compose.graph.graph import Graph, Rewriter
from compose.passes.base import PassContext


def prune(graph: Graph, context: PassContext) -> Graph:
    """Keeps the nodes from which a requested output can be reached.

    Without a request for tasks every branch's states are wanted, with or without a head.
    """
    if context.tasks is None:
        roots = [*graph.states.values(), *graph.outputs]
    else:
        roots = [node for position, node in enumerate(graph.outputs) if position in context.tasks]
    needed = graph.needed(roots)
    if len(needed) == len(graph):
        return graph
    rewriter = Rewriter(graph)
    for node in graph:
        if node in needed:
            rewriter.copy(node)
    return rewriter.finish()
