"""Lets branches part as late as possible."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from compose.graph.graph import Graph, Rewriter
from compose.passes.base import PassContext
from compose.passes.values import branch_numbers, value_numbers
from compose.specs import LAYER, BackboneSpec, LayerSpec

Entry = tuple[int, int]
"""A place where rows can be repeated: (layer, index of the sub-layer about to run; at its end their number)."""


def fork(graph: Graph, context: PassContext) -> Graph:
    """What is equal in several branches runs once, up to the place where they part.

    Branches run through a sub-layer together if they agree in everything that goes into it. Where
    they cannot part inside a layer (see `_settle`), they part at its input.
    """
    if len(set(graph.states.values())) < 2:
        return graph
    numbers, branches = value_numbers(graph), branch_numbers(graph)
    entries = _entries(context.vocabulary.backbone)
    classes = _classes(graph, context, entries, numbers, branches)
    rewriter = Rewriter(graph)
    seen: Counter[tuple[int, int]] = Counter()
    entry: dict[int, Entry] = {}
    for node, operation, _ in graph.nodes():
        branch = branches[node]
        if operation.kind == "fork":
            rewriter.forward(node)
            continue
        # Equal nodes of one branch stay apart here: making them one is what `share` is for.
        value = branch, numbers[node]
        occurrence = seen[value] = seen[value] + 1
        # Nodes outside the layers go with the last sub-layer before.
        within = entry[branch] = entries.get((operation.layer, operation.site)) or entry.get(branch, (0, 0))
        together = classes.get(within, {}).get(branch, branch)
        rewriter.intern(node, scope=(together, occurrence))
    return rewriter.finish()


def _entries(backbone: BackboneSpec) -> dict[tuple[int, str], Entry]:
    """The sub-layer that each site belongs to; a stack's embedding, which has no site, to its first layer's first."""
    entries: dict[tuple[int, str], Entry] = {(layer.index, ""): (layer.index, 0) for layer in backbone.layers}
    for layer in backbone.layers:
        for index, sublayer in enumerate(layer.sublayers):
            for site in (*sublayer.inner, *sublayer.exits):
                entries[layer.index, site.name] = (layer.index, index)
        entries[layer.index, LAYER] = (layer.index, len(layer.sublayers))
    entries[backbone.embed_key], entries[backbone.states_key] = (-1, 0), (len(backbone.layers), 0)
    return entries


def _classes(
    graph: Graph,
    context: PassContext,
    entries: Mapping[tuple[int, str], Entry],
    numbers: list[int],
    branches: list[int],
) -> dict[Entry, dict[int, int]]:
    """For each sub-layer and branch, the first branch with which it runs together."""
    values: dict[Entry, dict[int, int]] = {}
    after: dict[int, dict[int, int]] = {}
    for node, operation, _ in graph.nodes():
        if operation.kind in ("part", "embedded", "layer", "states"):
            entry = entries[operation.layer, operation.site]
            values.setdefault(entry, {})[branches[node]] = numbers[node]
        elif operation.kind == "close" and operation.site != LAYER:  # there branches can part in any case
            after.setdefault(operation.layer, {})[branches[node]] = numbers[node]
    classes = {entry: _first_equal(by_branch) for entry, by_branch in values.items()}
    for layer in context.vocabulary.backbone.layers:
        inside = [classes[layer.index, index] for index in range(len(layer.sublayers))]
        _settle(layer, inside, _first_equal(after[layer.index]))
    return classes


def _first_equal(by_branch: dict[int, int]) -> dict[int, int]:
    first: dict[int, int] = {}
    return {branch: first.setdefault(number, branch) for branch, number in by_branch.items()}


def _settle(layer: LayerSpec, classes: list[dict[int, int]], after: dict[int, int]) -> None:
    """Parts the branches at the layer's input if they could not part inside it.

    At a post-norm LayerNorm rows can be repeated in any way. In a pre-norm layer the residual must
    broadcast over what comes out of the sub-layer, so that only a single trunk can part there, and
    what follows in the layer must take states of four dimensions: a feed-forward does, attention not.
    """
    sequence = [*classes, after]
    for index, sublayer in enumerate(layer.sublayers):
        here, there = sequence[index], sequence[index + 1]
        if here == there or sublayer.norm == "post":
            continue
        follows = layer.sublayers[index + 1].name if index + 1 < len(layer.sublayers) else "ffn"
        if len(set(here.values())) == 1 and follows == "ffn":
            continue
        for earlier in classes:
            earlier.update(after)
        return
