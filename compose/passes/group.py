"""Runs siblings of one shape as one grouped matrix product: adapters, and the increments that a fusion reads."""

from __future__ import annotations

from collections import defaultdict

from compose.graph.graph import PLAIN, Graph
from compose.passes.base import PassContext

WHOLE = frozenset({"part", "linear", "norm", "embedded", "layer", "adapter", "fuse", "average", "dropped"})
"""Kinds whose value has all rows and tokens; pieces differ in shape and cannot be stacked."""


def group(graph: Graph, context: PassContext) -> Graph:
    """Adapters of equal shape at one site that do not read each other get a common group number.

    So do increments that stay factors and read the same value: their first products become one.
    """
    depth: dict[int, int] = {}
    whole: dict[int, bool] = {}
    siblings: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for node, operation, inputs in graph.nodes():
        here = [source for source in inputs if graph.operations[source].kind not in ("close", "embed", "fork")]
        if operation.kind in PLAIN:  # they have all rows, whatever is done to what they read
            here = []
        whole[node] = operation.kind in WHOLE and all(whole[source] for source in here)
        whole[node] &= not operation.changes_tokens  # rows of several lengths from here on
        acts = operation.kind == "adapter"
        depth[node] = max((depth[source] for source in here), default=0) + (1 if acts else 0)
        if acts and whole[node] and len(inputs) == 1:
            part = context.vocabulary.adapters[operation.name].by_site[operation.layer, operation.site]
            siblings[operation.layer, operation.site, depth[node], part.shape].append(node)
        elif operation.form == "low_rank":
            part = context.vocabulary.adapters[operation.name].by_site[operation.layer, operation.site]
            siblings[operation.layer, operation.site, inputs, operation.detail, part.shape].append(node)
    numbers = {
        node: number
        for number, nodes in enumerate(nodes for nodes in siblings.values() if len(nodes) > 1)
        for node in nodes
    }
    changed = {node: graph.operation(node)._replace(group=number) for node, number in numbers.items()}
    return graph.with_operations(changed) if changed else graph
