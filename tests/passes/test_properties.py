"""Whatever is drawn: every pass leaves a well-formed graph, and any subset of passes one that can be run."""

from __future__ import annotations

from hypothesis import assume, given
from hypothesis import strategies as st

from compose.compile import Options, compile_plan, draw_drops
from compose.dsl import Expression, branches, fuses, leaves, own_name
from compose.errors import CompileError
from compose.explain import explain
from compose.graph.build import build
from compose.graph.draw import dot, mermaid
from compose.graph.graph import Graph
from compose.graph.text import graph_text
from compose.graph.verify import verify
from compose.passes import NAMES, PASSES, PassContext
from compose.schedule import schedule
from compose.specs import LAYER, HeadSpec
from tests.dsl.strategies import ALL, expressions
from tests.graph.vocabularies import ADAPTERS, KINDS, UNFUSIBLE, Kind, vocabulary

LAYERS, ROWS, TOKENS = 2, 4, 8


@st.composite
def cases(draw: st.DrawFn) -> tuple[Kind, Expression]:
    """A backbone and an expression that has a meaning over it."""
    kind = draw(st.sampled_from(KINDS))
    count = LAYERS * (2 if kind == "both" else 1)
    names = (*ADAPTERS, *UNFUSIBLE)
    expression = draw(expressions(names, 6, blocks=ALL, layers=count, tokens=TOKENS, rows=ROWS))
    assume(not any(name in UNFUSIBLE for fuse in fuses(expression) for name in leaves(fuse)))
    assume(all(own_name(fuse) is not None for fuse in fuses(expression)))
    try:
        branches(expression)
    except CompileError as error:
        assume("names nothing" not in str(error))  # a task given to what has tasks of its own
        raise
    return kind, draw_drops(expression, None)


def built(kind: Kind, expression: Expression) -> tuple[Graph, PassContext]:
    words = vocabulary(kind, LAYERS, expression)
    try:
        return build(expression, words), PassContext(words)
    except CompileError as error:
        # Who closes a site, how a Fuse is cut up, and a task that would be a split's, are no matter of passes.
        assume(not any(said in str(error) for said in ("differently", "in different ways", "names nothing")))
        raise


@given(cases())
def test_graphs_are_well_formed_after_every_pass(case: tuple[Kind, Expression]) -> None:
    graph, context = built(*case)
    verify(graph, context.vocabulary)
    done: list[str] = []
    for name, function in zip(NAMES, PASSES, strict=True):
        graph = function(graph, context)
        done.append(name)
        verify(graph, context.vocabulary, done)


@given(cases(), st.sets(st.sampled_from(NAMES)), st.booleans(), st.data())
def test_any_subset_of_passes_can_be_scheduled(
    case: tuple[Kind, Expression], chosen: set[str], training: bool, data: st.DataObject
) -> None:
    graph, context = built(*case)
    outputs = len(graph.outputs)
    tasks = data.draw(st.none() | st.frozensets(st.integers(0, outputs - 1), min_size=1))
    context = PassContext(context.vocabulary, tasks, training)
    done: list[str] = []
    for name, function in zip(NAMES, PASSES, strict=True):
        if name in chosen:
            graph = function(graph, context)
            done.append(name)
            verify(graph, context.vocabulary, done)
    count = len(branches(case[1]))
    plan = schedule(graph, context.vocabulary.backbone, count, training)
    assert len(plan.branches) == count
    ends = {end for end in plan.branches if end is not None}
    assert ends == set(range(plan.classes))
    wanted = tasks if tasks is not None and "prune" in chosen else range(outputs)
    assert len(plan.outputs) == len(wanted)
    check_rows(plan)


def check_rows(plan) -> None:
    """Every class at every place comes from one that is there."""
    classes = 1
    for layer, rows in zip(plan.backbone.layers, plan.layers, strict=True):
        if layer.index and layer.stack != plan.backbone.layers[layer.index - 1].stack:
            assert all(0 <= source < classes for source in plan.entry)
            classes = len(plan.entry)
        gather = rows.gather or tuple(range(classes))
        assert len(gather) == rows.classes and all(0 <= source < classes for source in gather)
        classes = rows.classes
        inner = {site.name for sublayer in layer.sublayers for site in sublayer.inner}
        sites = [site.name for sublayer in layer.sublayers for site in (*sublayer.inner, *sublayer.exits)]
        for site in (*sites, LAYER):
            program = plan.programs.get((layer.index, site))
            if program is None:
                continue
            assert program.classes == classes, (layer.index, site)
            assert len(program.results) == len(program.sources) == len(program.closings)
            assert all(0 <= source < classes for source in program.sources)
            written = set(range(classes))
            for step in program.steps:
                for inputs in step.inputs:
                    assert written.issuperset(inputs)
                assert written.isdisjoint(step.outputs)
                written.update(step.outputs)
            assert written.issuperset(program.results)
            if site in inner:
                assert len(program.results) == classes
            classes = len(program.results)
    assert classes == plan.classes


@given(cases())
def test_one_pass_never_costs_more_than_separate_passes(case: tuple[Kind, Expression]) -> None:
    kind, expression = case
    _, context = built(kind, expression)
    words = context.vocabulary
    plan = compile_plan(expression, words, Options())
    heads = {
        output.head: HeadSpec(output.head, "classification", row_multiplies=48)
        for output in plan.outputs
        if output.head is not None
    }
    found = explain(plan, words, heads, ROWS, TOKENS)
    assert 0 < found.plain.flops <= found.flops <= found.separate_flops
    assert found.plain.bytes > 0 and found.bytes <= found.separate.bytes
    ranges = found.ranges
    assert [layer for each in ranges for layer in range(each.first, each.last + 1)] == [
        layer.index for layer in words.backbone.layers
    ]
    assert sum(each.flops for each in ranges) <= found.flops
    assert str(found) and str(found) == str(explain(plan, words, heads, ROWS, TOKENS))
    assert found.mermaid().startswith("flowchart") and found.dot().count("{") == found.dot().count("}")


@given(cases())
def test_texts_and_pictures_are_stable(case: tuple[Kind, Expression]) -> None:
    one, two = built(*case)[0], built(*case)[0]
    assert graph_text(one) == graph_text(two)
    lines = graph_text(one).splitlines()
    assert len(set(lines)) == len(lines)
    assert mermaid(one) == mermaid(two) and dot(one) == dot(two)
