"""Laws with invertible parts and prompts among the adapters: what acts before the layers."""

from __future__ import annotations

from functools import cache

from hypothesis import assume, given
from hypothesis import strategies as st

from compose.dsl import Expression
from compose.graph.verify import verify
from compose.methods.prefix.spec import LEARNED, RELATIVE
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
    identities_hold,
    layers_of,
    planned_unless,
    tokens_of,
)
from tests.methods.shapes import FEWER

BLOCKS = ("Stack", "Parallel", "Drop", "Average", "BatchSplit", "Route")
NAMES_OF = ("nice", "glow", "three", "five", "words", "counted", "a", "lora")


@cache
def world(architecture: str) -> Model:
    model = tiny.model(architecture, LAYERS)
    made = (
        ("seq_bn_inv", {"bottleneck_size": 4}),
        ("double_seq_bn_inv", {"bottleneck_size": 4, "inv_adapter": "glow"}),
        ("prompt_tuning", {"prompt_length": 3}),
        ("prompt_tuning", {"prompt_length": 5, "combine": "prefix_after_bos"}),
        ("prompt_tuning", {"prompt_length": 2, "as_words": architecture != "vit"}),
        ("prefix_tuning_flat", {"prefix_length": 4, "counted": architecture in (*LEARNED, *RELATIVE)}),
        ("seq_bn", {"bottleneck_size": 4}),
        ("lora", {"r": 2}),
    )
    for seed, (name, (method, options)) in enumerate(zip(NAMES_OF, made, strict=True)):
        tiny.randomize(model.add_adapter(name, method, **options), seed)
    return model


@st.composite
def settings_of(draw: st.DrawFn, blocks: tuple[str, ...] = BLOCKS) -> tuple[str, Expression]:
    architecture = draw(st.sampled_from(ARCHITECTURES))
    layers, tokens = layers_of(architecture), tokens_of(architecture)
    return architecture, draw(expressions(NAMES_OF, 5, blocks=blocks, layers=layers, tokens=tokens, rows=ROWS))


def planned(model: Model, expression: Expression, without: tuple[str, ...] = ()) -> RunnablePlan | None:
    """The plan; None where an Average's children are of several lengths, or have several virtual tokens."""
    return planned_unless(model, expression, without, "of this Average")


@FEWER
@given(settings_of(), st.booleans(), st.sets(st.sampled_from(NAMES)))
def test_branches_equal_single_runs(drawn: tuple[str, Expression], padded: bool, without: set[str]) -> None:
    """With any subset of passes; branches of shorter rows are padded."""
    architecture, expression = drawn
    assume(consistent_routes(expression))
    model = world(architecture)
    plan = planned(model, expression, tuple(without))
    assume(plan is not None)
    verify(plan.plan.graph, model.vocabulary, set(NAMES) - without)
    inputs = batch(architecture, padded)
    branches_are_single_runs(model, plan, inputs, routes, longer=True)


@FEWER
@given(settings_of(("Stack", "Drop", "Average")))
def test_identities(drawn: tuple[str, Expression]) -> None:
    architecture, expression = drawn
    model = world(architecture)
    plan = planned(model, expression)
    assume(plan is not None)
    inputs = batch(architecture, padded=True)
    identities_hold(model, plan, inputs, layers_of(architecture))
