"""Removes what was dropped."""

from __future__ import annotations

from compose.graph.graph import PLAIN, Graph, Rewriter
from compose.passes.base import PassContext


def drop(graph: Graph, context: PassContext) -> Graph:
    """Nodes on dropped layers go, and with them the linear maps that nothing acts on any more."""
    if not _has_dropped(graph):
        return graph
    rewriter = Rewriter(graph)
    for node, (kind, *_), inputs in graph.nodes():
        if kind == "dropped":
            rewriter.forward(node)
        elif kind in ("part", "linear"):
            state, *inner = inputs
            acted = [source for source in inner if rewriter.new.operations[rewriter.at[source]].kind not in PLAIN]
            rewriter.copy(node, inputs=[state, *acted])
        else:
            rewriter.copy(node)
    return _without_loose_ends(rewriter.finish())


def _has_dropped(graph: Graph) -> bool:
    return any(
        kind == "dropped" or (kind == "part" and any(graph.operations[source].kind in PLAIN for source in inputs))
        for _, (kind, *_), inputs in graph.nodes()
    )


def _without_loose_ends(graph: Graph) -> Graph:
    needed = graph.needed([*graph.states.values(), *graph.outputs])
    if len(needed) == len(graph):
        return graph
    rewriter = Rewriter(graph)
    for node in sorted(needed):
        rewriter.copy(node)
    return rewriter.finish()
