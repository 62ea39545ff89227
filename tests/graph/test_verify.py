"""A well-formed graph is let through; each way of breaking it is named."""

from __future__ import annotations

import pytest

from compose.dsl import parse
from compose.graph.build import build
from compose.graph.graph import Graph, Operation
from compose.graph.verify import GraphError, verify
from compose.passes import NAMES, PassContext, run_passes
from tests.graph.vocabularies import vocabulary

TEXT = "Parallel(x=Fuse('a', None, 'b', name='f'), y=Stack('d', 'v'))"
WORDS = vocabulary("post", 1, parse(TEXT))
BUILT = build(parse(TEXT), WORDS)
DONE = run_passes(BUILT, PassContext(WORDS))


def changed(graph: Graph, which: str, inputs: tuple[int, ...] | None = None, **fields: object) -> Graph:
    """A copy in which the first node of a kind has other fields or inputs."""
    copy, found = Graph(graph.expression), False
    for node in graph:
        operation, given = graph.operation(node), graph.inputs(node)
        if operation.kind == which and not found:
            found = True
            operation = operation._replace(**fields)
            given = given if inputs is None else inputs
        copy.add(operation, given)
    assert found
    copy.states, copy.outputs = dict(graph.states), list(graph.outputs)
    return copy


def test_good_graphs() -> None:
    verify(BUILT, WORDS)
    verify(DONE, WORDS, NAMES)


@pytest.mark.parametrize(
    ("graph", "fault"),
    [
        (changed(BUILT, "part", kind="nonsense"), "no such kind"),
        (changed(BUILT, "close", inputs=()), "0 inputs, not 1"),
        (changed(BUILT, "part", inputs=()), "no input"),
        (changed(BUILT, "fuse", inputs=(3,)), "1 inputs, not 3"),
        (changed(BUILT, "adapter", inputs=(0,)), "it reads a embed"),
        (changed(BUILT, "close", layer=7), "no such layer"),
        (changed(BUILT, "adapter", site="nowhere"), "no such site"),
        (changed(BUILT, "adapter", name="c2"), "'c2' has no weights here"),
        (changed(BUILT, "fuse", name="other"), "fusion 'other' has no weights"),
        (changed(BUILT, "increment", detail=("nobody",)), "'nobody' has no weights here"),
        (changed(BUILT, "close", site="attn.q"), "not at a sub-layer"),
        (changed(BUILT, "linear", site="attn"), "not at a linear map"),
        (changed(BUILT, "close", site="ffn"), "it reads a part at 0.attn"),
        (changed(BUILT, "adapter", form="folded"), "no form 'folded'"),
        (changed(DONE, "fuse", form=""), "plain form reads factors"),
        (changed(BUILT, "adapter", group=3), "no group of adapters"),
        (changed(BUILT, "head", detail=(1, "x", ())), "does not read the states of branch 1"),
    ],
)
def test_faults(graph: Graph, fault: str) -> None:
    with pytest.raises(GraphError) as error:
        verify(graph, WORDS)
    assert fault in str(error.value)


def test_inputs_that_come_later() -> None:
    graph = changed(BUILT, "embed")
    graph.sources[3] = (7,)
    with pytest.raises(GraphError, match=r"the inputs of \[3\] do not all come before them"):
        verify(graph, WORDS)


def test_a_way_that_leaves_out_a_sublayer() -> None:
    graph = Graph(None)
    embed = graph.add(Operation("embed"))
    part = graph.add(Operation("part", 0, "ffn"), [embed])
    graph.states[0] = graph.add(Operation("close", 0, "ffn", detail=("backbone",)), [part])
    with pytest.raises(GraphError, match="branch 0 runs through"):
        verify(graph, WORDS)


def test_states_and_outputs_that_are_not_there() -> None:
    graph = changed(BUILT, "embed")
    graph.states[0] = 1 + graph.states[0] - 2
    with pytest.raises(GraphError, match="branch 0 does not end in a state"):
        verify(graph, WORDS)
    graph = changed(BUILT, "embed")
    graph.outputs.pop()
    with pytest.raises(GraphError, match="the outputs are"):
        verify(graph, WORDS)


def test_groups_of_unlike_members() -> None:
    text = "Parallel('a', 'd')"
    words = vocabulary("post", 1, parse(text))
    graph = run_passes(build(parse(text), words), PassContext(words), ["group"])
    nodes = [node for node in graph if graph.operation(node).kind == "adapter"]
    copy = Graph(graph.expression)
    for node in graph:
        operation = graph.operation(node)
        copy.add(operation._replace(group=0) if node in nodes else operation, graph.inputs(node))
    copy.states, copy.outputs = graph.states, graph.outputs
    with pytest.raises(GraphError, match="several sites or shapes"):
        verify(copy, words)


@pytest.mark.parametrize(
    ("text", "fault", "name"),
    [
        ("Drop('a', first=1)", "still there", "drop"),
        ("Fuse('a', 'b', name='f')", "in its plain form", "fold"),
        ("Parallel('a', 'b')", "before they part", "fork"),
        ("Parallel(t1='a', t2='a')", "computed apart", "share"),
        ("Average('a', 'a')", "repeats node", "share"),
    ],
)
def test_what_a_pass_promises(text: str, fault: str, name: str) -> None:
    words = vocabulary("post", 1, parse(text))
    graph = build(parse(text), words)
    verify(graph, words)
    with pytest.raises(GraphError, match=fault):
        verify(graph, words, [name])


def test_what_nobody_needs() -> None:
    graph = changed(BUILT, "embed")
    del graph.states[0]
    graph.outputs = [node for node in graph.outputs if graph.operation(node).detail[0] != 0]
    with pytest.raises(GraphError, match="nothing needs"):
        verify(graph, WORDS, ["prune"])
