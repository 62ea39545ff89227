"""From an expression to its graph: every branch whole and on its own. The passes do the rest."""

from __future__ import annotations

from compose.dsl import Branch, Expression, branches, leaves, outputs
from compose.graph.check import check
from compose.graph.graph import Graph, Operation
from compose.graph.sites import SiteBuilder, Vocabulary
from compose.specs import LayerSpec, SubLayerSpec


def build(expression: Expression, vocabulary: Vocabulary) -> Graph:
    """The graph of an expression over a backbone, before any pass.

    Raises:
        CompileError: if the expression has no meaning; every problem is marked in its text.
    """
    parted = branches(expression)
    check(expression, vocabulary)
    names, backbone = leaves(expression), vocabulary.backbone
    embeds = any(backbone.embed_key in vocabulary.adapters[name].by_site for name in names)
    aggregates = any(backbone.states_key in vocabulary.adapters[name].by_site for name in names)
    graph = Graph(expression)
    trunk = graph.add(Operation("embed"))
    for number, branch in enumerate(parted):
        state = graph.add(Operation("fork", detail=(number,)), [trunk]) if len(parted) > 1 else trunk
        if embeds:
            state = _outside(graph, branch, state, vocabulary, "embedded", backbone.embed_key)
        state = _through_layers(graph, branch, state, vocabulary)
        if aggregates:
            state = _outside(graph, branch, state, vocabulary, "states", backbone.states_key)
        graph.states[number] = state
    for number, branch in enumerate(parted):
        for output in outputs(branch):
            operation = Operation("head", name=output.head or "", detail=(number, output.task, output.rows))
            graph.outputs.append(graph.add(operation, [graph.states[number]]))
    return graph


def _through_layers(graph: Graph, branch: Branch, state: int, vocabulary: Vocabulary) -> int:
    touched = set().union(*(vocabulary.adapters[name].by_site for name in leaves(branch.expression)))
    stack = vocabulary.backbone.layers[0].stack if vocabulary.backbone.layers else ""
    for layer in vocabulary.backbone.layers:
        if layer.stack != stack:
            state = graph.add(Operation("embed", layer.index, detail=(layer.stack,)), [state])
            stack = layer.stack
        for sublayer in layer.sublayers:
            state = _through_sublayer(graph, branch, layer, sublayer, state, touched, vocabulary)
    return state


def _outside(graph: Graph, branch: Branch, state: int, vocabulary: Vocabulary, kind: str, key: tuple[int, str]) -> int:
    """Before or after the layers: what acts there. A branch in which nothing does hands its own state on."""
    layer, site = key
    node = graph.add(Operation(kind, layer, site), [state])
    result = SiteBuilder(graph, vocabulary, layer, site).act(branch.expression, node)
    return graph.add(Operation("close", layer, site, detail=(result.closing,)), [result.node])


def _through_sublayer(
    graph: Graph,
    branch: Branch,
    layer: LayerSpec,
    sublayer: SubLayerSpec,
    state: int,
    touched: set[tuple[int, str]],
    vocabulary: Vocabulary,
) -> int:
    inputs = [state]
    for linear in sublayer.linears:
        if (layer.index, linear.name) in touched:
            value = graph.add(Operation("linear", layer.index, linear.name), [state])
            builder = SiteBuilder(graph, vocabulary, layer.index, linear.name)
            inputs.append(builder.act(branch.expression, value).node)
    node = graph.add(Operation("part", layer.index, sublayer.name), inputs)
    closing = "backbone"
    if (layer.index, sublayer.name) in touched:
        builder = SiteBuilder(graph, vocabulary, layer.index, sublayer.name)
        node, closing, _ = builder.act(branch.expression, node)
    return graph.add(Operation("close", layer.index, sublayer.name, detail=(closing,)), [node])
