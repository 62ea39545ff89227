"""Chooses the form in which fusions are computed."""

from __future__ import annotations

from compose.graph.graph import Graph, Operation
from compose.passes.base import PassContext

FUSIONS = frozenset({"fuse", "mixture"})


def fold(graph: Graph, context: PassContext) -> Graph:
    """Fusions read the children's bottleneck activations instead of their increments.

    While gradients may be asked for, the projections stay apart (`unfolded`); at inference they are
    multiplied out once (`folded`). Increments that fusions read stay factors (`low_rank`);
    an adapter that reads one too multiplies it out.
    """
    form = "unfolded" if context.training else "folded"
    changed: dict[int, Operation] = {}
    for node, operation, _ in graph.nodes():
        if operation.kind in FUSIONS:
            changed[node] = operation._replace(form=form)
        elif operation.kind == "increment":
            readers = {graph.operation(reader).kind for reader in graph.consumers(node)}
            part = context.vocabulary.adapters[operation.name].by_site[operation.layer, operation.site]
            if part.factored and readers & FUSIONS and readers <= FUSIONS | {"adapter"}:
                changed[node] = operation._replace(form="low_rank")
    return graph.with_operations(changed) if changed else graph
