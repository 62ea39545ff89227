"""Laws with adapters that aggregate layers among the others."""

from __future__ import annotations

from functools import cache

from hypothesis import assume, given
from hypothesis import strategies as st

from compose.dsl import Expression
from compose.graph.verify import verify
from compose.passes import NAMES
from compose.runtime.model import Model
from compose.runtime.runnable import RunnablePlan
from tests import tiny
from tests.dsl.strategies import expressions
from tests.laws.test_compositions import consistent_routes, routes
from tests.laws.worlds import (
    LAYERS,
    ROWS,
    batch,
    branches_are_single_runs,
    identities_hold,
    planned_unless,
    tokens_of,
)

ARCHITECTURES = ("bert", "gpt2", "llama", "vit")
BLOCKS = ("Stack", "Parallel", "Drop", "Average", "Split", "BatchSplit", "Route")
NAMES_OF = ("pos", "ner", "a", "b")


@cache
def world(architecture: str) -> Model:
    model = tiny.model(architecture, LAYERS)
    made = (
        ("layer_aggregation", {}),
        ("layer_aggregation", {"tailor": False, "leave_out": [1]}),
        ("seq_bn", {"bottleneck_size": 4}),
        ("lora", {"r": 2}),
    )
    for seed, (name, (method, options)) in enumerate(zip(NAMES_OF, made, strict=True)):
        tiny.randomize(model.add_adapter(name, method, **options), seed)
    return model


@st.composite
def settings_of(draw: st.DrawFn, blocks: tuple[str, ...] = BLOCKS) -> tuple[str, Expression]:
    architecture = draw(st.sampled_from(ARCHITECTURES))
    tokens = tokens_of(architecture)
    return architecture, draw(expressions(NAMES_OF, 5, blocks=blocks, layers=LAYERS, tokens=tokens, rows=ROWS))


def planned(model: Model, expression: Expression, without: tuple[str, ...] = ()) -> RunnablePlan | None:
    """The plan; None where one aggregation would replace another's result, or a task would be a split's."""
    return planned_unless(model, expression, without, "aggregate the layers")


@given(settings_of(), st.booleans(), st.sets(st.sampled_from(NAMES)))
def test_branches_equal_single_runs(drawn: tuple[str, Expression], padded: bool, without: set[str]) -> None:
    """With any subset of passes."""
    architecture, expression = drawn
    assume(consistent_routes(expression))
    model = world(architecture)
    plan = planned(model, expression, tuple(without))
    assume(plan is not None)
    verify(plan.plan.graph, model.vocabulary, set(NAMES) - without)
    inputs = batch(architecture, padded)
    branches_are_single_runs(model, plan, inputs, routes)


@given(settings_of(("Stack", "Drop", "Average", "Split")))
def test_identities(drawn: tuple[str, Expression]) -> None:
    architecture, expression = drawn
    model = world(architecture)
    plan = planned(model, expression)
    assume(plan is not None)
    inputs = batch(architecture, padded=True)
    identities_hold(model, plan, inputs, LAYERS)
