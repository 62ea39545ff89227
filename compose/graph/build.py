"""From an expression to its graph: every branch whole and on its own. The passes do the rest."""

from __future__ import annotations

from compose.dsl import Expression, branches, leaves, outputs
from compose.graph.check import check
from compose.graph.graph import Graph, Operation
from compose.graph.hoist import cuts_outside
from compose.graph.sites import SiteBuilder, Vocabulary
from compose.specs import LAYER, LayerSpec, SubLayerSpec


def build(expression: Expression, vocabulary: Vocabulary) -> Graph:
    """The graph of an expression over a backbone, before any pass.

    Raises:
        CompileError: if the expression has no meaning; every problem is marked in its text.
    """
    parted = branches(expression)
    check(expression, vocabulary)
    acted = frozenset(key for name in leaves(expression) for key in vocabulary.adapters[name].by_site)
    backbone = vocabulary.backbone
    graph = Graph(expression)
    trunk = graph.add(Operation("embed"))
    for number, branch in enumerate(parted):
        acts = cuts_outside(branch.expression, expression)
        state = graph.add(Operation("fork", detail=(number,)), [trunk]) if len(parted) > 1 else trunk
        if backbone.embed_key in acted:
            state = _on_state(graph, acts, "embedded", backbone.embed_key, state, vocabulary)
        state = _through_layers(graph, acts, state, acted, vocabulary)
        if backbone.states_key in acted:
            state = _on_state(graph, acts, "states", backbone.states_key, state, vocabulary)
        graph.states[number] = state
    for number, branch in enumerate(parted):
        for output in outputs(branch):
            operation = Operation("head", name=output.head or "", detail=(number, output.task, output.rows))
            graph.outputs.append(graph.add(operation, [graph.states[number]]))
    return graph


def _through_layers(
    graph: Graph, expression: Expression, state: int, acted: frozenset[tuple[int, str]], vocabulary: Vocabulary
) -> int:
    """Through all layers; `acted` are the sites at which any branch's adapters act."""
    touched = set().union(*(vocabulary.adapters[name].by_site for name in leaves(expression)))
    stack = vocabulary.backbone.layers[0].stack if vocabulary.backbone.layers else ""
    for layer in vocabulary.backbone.layers:
        if layer.stack != stack:
            state = graph.add(Operation("embed", layer.index, detail=(layer.stack,)), [state])
            stack = layer.stack
        for sublayer in layer.sublayers:
            state = _through_sublayer(graph, expression, layer, sublayer, state, touched, vocabulary)
            for site in sublayer.exits[1:]:
                if (layer.index, site.name) in acted:
                    state = _on_state(graph, expression, "norm", (layer.index, site.name), state, vocabulary)
        if (layer.index, LAYER) in acted:
            state = _on_state(graph, expression, "layer", (layer.index, LAYER), state, vocabulary)
    return state


def _on_state(
    graph: Graph, expression: Expression, kind: str, key: tuple[int, str], state: int, vocabulary: Vocabulary
) -> int:
    """What acts on a state itself. A branch in which nothing does hands its own on."""
    node = graph.add(Operation(kind, *key), [state])
    result = SiteBuilder(graph, vocabulary, *key).act(expression, node)
    return graph.add(Operation("close", *key, detail=(result.closing,)), [result.node])


def _through_sublayer(
    graph: Graph,
    expression: Expression,
    layer: LayerSpec,
    sublayer: SubLayerSpec,
    state: int,
    touched: set[tuple[int, str]],
    vocabulary: Vocabulary,
) -> int:
    inputs, read = [state], [state]
    for site in sublayer.inner:
        if (layer.index, site.name) in touched:
            kind = "norm" if site.kind == "norm" else "linear"
            value = graph.add(Operation(kind, layer.index, site.name), [state] if site.memory else read)
            builder = SiteBuilder(graph, vocabulary, layer.index, site.name)
            inputs.append(builder.act(expression, value).node)
            if site.kind == "norm":
                read = list(inputs)
    node = graph.add(Operation("part", layer.index, sublayer.name), inputs)
    closing: object = "backbone"
    if (layer.index, sublayer.name) in touched:
        builder = SiteBuilder(graph, vocabulary, layer.index, sublayer.name)
        node, closing, _ = builder.closed(builder.act(expression, node))
    return graph.add(Operation("close", layer.index, sublayer.name, detail=(closing,)), [node])
