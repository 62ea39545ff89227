"""Laws with prefixes among the other adapters."""

from __future__ import annotations

from functools import cache

from hypothesis import assume, given
from hypothesis import strategies as st

from compose.dsl import Average, Expression, Route, Stack
from compose.graph.verify import verify
from compose.passes import NAMES
from compose.runtime.model import Model
from compose.runtime.runnable import RunnablePlan
from tests import tiny
from tests.dsl.strategies import expressions
from tests.laws.test_compositions import consistent_routes, routes
from tests.laws.worlds import (
    ARCHITECTURES,
    LAYERS,
    ROWS,
    batch,
    branches_are_single_runs,
    close,
    identities_hold,
    layers_of,
    planned_unless,
    states,
    tokens_of,
)
from tests.methods.shapes import FEWER

BLOCKS = ("Stack", "Parallel", "Drop", "Average", "BatchSplit", "Route")
ADAPTERS = {
    "p": ("prefix_tuning", {"prefix_length": 4, "bottleneck_size": 5}),
    "q": ("prefix_tuning_flat", {"prefix_length": 4}),
    "long": ("prefix_tuning", {"prefix_length": 7, "bottleneck_size": 3, "cross_prefix": False}),
    "upper": ("prefix_tuning_flat", {"prefix_length": 2, "leave_out": [0], "encoder_prefix": False}),
    "a": ("double_seq_bn", {"bottleneck_size": 4}),
    "lora": ("lora", {"r": 2, "attn_matrices": ["q", "k", "v"]}),
}
TOLERANCE = 1e-9


@cache
def world(architecture: str) -> Model:
    model = tiny.model(architecture, LAYERS)
    for seed, (name, (method, options)) in enumerate(ADAPTERS.items()):
        tiny.randomize(model.add_adapter(name, method, **options), seed)
    return model


@st.composite
def settings_of(draw: st.DrawFn, blocks: tuple[str, ...] = BLOCKS) -> tuple[str, Expression]:
    architecture = draw(st.sampled_from(ARCHITECTURES))
    tokens, layers = tokens_of(architecture), layers_of(architecture)
    return architecture, draw(expressions(tuple(ADAPTERS), 5, blocks=blocks, layers=layers, tokens=tokens, rows=ROWS))


def planned(model: Model, expression: Expression, without: tuple[str, ...] = ()) -> RunnablePlan | None:
    """The plan; None where prefixes of different lengths would be averaged."""
    return planned_unless(model, expression, without, "virtual tokens")


@given(settings_of(), st.booleans(), st.sets(st.sampled_from(NAMES)))
def test_branches_equal_single_runs(drawn: tuple[str, Expression], padded: bool, without: set[str]) -> None:
    """Whatever the lengths of the prefixes beside them; with any subset of passes."""
    architecture, expression = drawn
    assume(consistent_routes(expression))
    model = world(architecture)
    plan = planned(model, expression, tuple(without))
    assume(plan is not None)
    verify(plan.plan.graph, model.vocabulary, set(NAMES) - without)
    inputs = batch(architecture, padded)
    branches_are_single_runs(model, plan, inputs, routes, TOLERANCE)


@FEWER
@given(
    st.sampled_from(ARCHITECTURES),
    st.lists(st.one_of(st.sampled_from([*ADAPTERS, None]), st.just(Stack("q", "p", "a"))), min_size=2, max_size=2),
    st.booleans(),
)
def test_routed_rows_equal_single_runs(architecture: str, names: list[Expression], padded: bool) -> None:
    """Row by row, whatever its batch mates, their prefixes and the padding."""
    model, inputs = world(architecture), batch(architecture, padded)
    route = ["x", "y", "y", "x"]
    found = states(model.plan(Stack("q", Route(x=names[0], y=names[1]), "a")), inputs, route=route)
    for row, task in enumerate(route):
        alone = Stack("q", names["xy".index(task)], "a")
        one = {name: tensor[[row]] for name, tensor in inputs.items()}
        close(found[[row]], states(model.plan(alone), one), TOLERANCE)


@FEWER
@given(settings_of(("Stack", "Drop", "Average")))
def test_identities(drawn: tuple[str, Expression]) -> None:
    architecture, expression = drawn
    model = world(architecture)
    plan = planned(model, expression)
    assume(plan is not None)
    inputs = batch(architecture, padded=True)
    identities_hold(model, plan, inputs, layers_of(architecture), TOLERANCE)
    close(states(model.plan(Average(expression, None, weights=[1, 0])), inputs), states(plan, inputs), TOLERANCE)


@FEWER
@given(st.sampled_from(ARCHITECTURES), st.lists(st.sampled_from(list(ADAPTERS)), min_size=3, max_size=3))
def test_stack_is_associative(architecture: str, names: list[str]) -> None:
    """One prefix after the other, whichever were put together first."""
    model, (a, b, c) = world(architecture), names
    inputs = batch(architecture, padded=True)
    expected = states(model.plan(Stack(a, b, c)), inputs)
    for same in (Stack(Stack(a, b), c), Stack(a, Stack(b, c))):
        close(states(model.plan(same), inputs), expected, TOLERANCE)
