"""Laws of optimisations: with adapters of every method, each of them on and off gives the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import assume, currently_in_test_context, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._dynamo.utils import counters

from compose.dsl import Drop, Expression, Parallel
from compose.errors import InputError
from compose.runtime import groups
from compose.runtime.batches import batches
from compose.runtime.model import Model
from compose.runtime.runnable import RunnablePlan
from compose.train.trunk_cache import TrunkCache
from tests import tiny
from tests.laws import worlds
from tests.laws.test_training import backward, same
from tests.laws.worlds import (
    ADAPTERS,
    ARCHITECTURES,
    ROWS,
    TOKENS,
    batch,
    close,
    consistent_routes,
    is_gated,
    routes,
    settings_of,
    world,
)
from tests.methods.shapes import FEWER

TOLERANCE = 1e-9
LAYERED = tuple(name for name in ARCHITECTURES if name != "t5")
"""Those that can be entered after their embeddings."""
WHOLE_ROWS = ("Stack", "Fuse", "Parallel", "Drop", "Average", "Route")
"""Blocks that do not tell rows and tokens by their place in the batch."""
RARE = settings(max_examples=max(1, settings.default.max_examples // 150))
"""For what takes seconds each time."""
COMPILED = {
    "gpt2": ("dora", "vera", "mam", "compact"),
    "llama": ("three", "ia3"),
    "t5": ("flat",),
}


def planned(model: Model, expression: Expression) -> RunnablePlan:
    """The plan with a head for every output; draws that have no meaning are passed over."""
    _needs(consistent_routes(expression))
    plan = worlds.planned(model, expression)
    _needs(plan is not None and all(output.head is not None for output in plan.plan.outputs))
    assert plan is not None
    for output in plan.plan.outputs:
        if output.head not in model.heads:
            head = model.add_head(str(output.head), labels=2 + len(model.heads) % 3, pooling="mean")
            tiny.randomize(head, len(str(output.head)))
    return plan


def answers(plan: Any, inputs: dict[str, Tensor], **options: Any) -> list[Tensor]:
    """The logits of every output without gradients."""
    try:
        with torch.no_grad():
            return [output.logits for output in plan(**inputs, **options)]
    except InputError as error:
        _needs("ReFT in one batch" not in str(error))
        raise


def _needs(condition: bool) -> None:
    if currently_in_test_context():
        assume(condition)
    assert condition


def all_close(found: list[Tensor], expected: list[Tensor], tolerance: float = TOLERANCE) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        close(one, other, tolerance)


@FEWER
@given(settings_of(architectures=LAYERED))
def test_trunk_states(drawn: tuple[str, Expression]) -> None:
    """Those of the trunk, and those that a cache has kept without padding."""
    architecture, expression = drawn
    model = world(architecture)
    assume(not is_gated(expression))
    plan = planned(model, Drop(expression, first=1))
    assume(plan.trunk)
    inputs, route = batch(architecture, padded=True), routes(expression)
    expected = answers(plan, inputs, **route)
    all_close(answers(plan, inputs, **route, trunk_states=plan.trunk_states(**inputs)), expected)
    if "input_ids" in inputs:
        cache = TrunkCache()
        for _ in range(2):
            all_close(answers(plan, inputs, **route, trunk_states=cache.states(plan, inputs)), expected)
        assert (cache.computed, cache.found) == (ROWS, ROWS)


@FEWER
@given(settings_of(WHOLE_ROWS, tuple(name for name in ARCHITECTURES if name != "vit")))
def test_rows_in_other_batches(drawn: tuple[str, Expression]) -> None:
    """Sorted by length within a budget of tokens, each batch as long as its longest row."""
    architecture, expression = drawn
    assume(not is_gated(expression))
    plan = planned(world(architecture), expression)
    inputs, route = batch(architecture, padded=True), routes(expression).get("route")
    lengths = inputs["attention_mask"].sum(1).tolist()
    sums: dict[tuple[int, int], Tensor] = {}
    for places in batches(lengths, batch_tokens=2 * TOKENS - 3):
        cut = {name: _cut(name, tensor[places], max(lengths[p] for p in places)) for name, tensor in inputs.items()}
        _note(sums, plan, cut, places, None if route is None else [route[place] for place in places])
    expected: dict[tuple[int, int], Tensor] = {}
    _note(expected, plan, inputs, list(range(ROWS)), route)
    assert sums.keys() == expected.keys()
    for key, logits in expected.items():
        # T5 takes the softmax in float32 in some versions of transformers: there padding alone costs 2e-7.
        close(sums[key], logits, 1e-6 if architecture == "t5" else TOLERANCE)


def _cut(name: str, tensor: Tensor, longest: int) -> Tensor:
    return tensor if name.startswith("decoder") else tensor[:, :longest]


def _note(
    found: dict[tuple[int, int], Tensor], plan: Any, inputs: dict[str, Tensor], places: list[int], route: Any
) -> None:
    """Notes the logits of each output's rows by their places among all rows."""
    with torch.no_grad():
        out = plan(**inputs, **({} if route is None else {"route": route}))
    for index, output in enumerate(out):
        rows = range(len(places)) if output.rows is None else output.rows.tolist()
        found.update({(index, places[row]): logits for row, logits in zip(rows, output.logits, strict=True)})


@FEWER
@given(settings_of())
def test_siblings_one_after_the_other(drawn: tuple[str, Expression]) -> None:
    """Where values are large, what could be one grouped product is not."""
    architecture, expression = drawn
    plan = planned(world(architecture), expression)
    inputs, route = batch(architecture, padded=True), routes(expression)
    expected = answers(plan, inputs, **route)
    with mock.patch.object(groups, "CACHED", 0):
        all_close(answers(plan, inputs, **route), expected)


@FEWER
@given(settings_of())
@pytest.mark.filterwarnings("ignore::compose.runtime.precision.SlowPrecisionWarning")
def test_bf16(drawn: tuple[str, Expression]) -> None:
    """To what 8 bits tell apart, after two layers."""
    architecture, expression = drawn
    full, half = (world(architecture, precision, 0.1) for precision in ("float32", "bf16"))
    plans = [planned(model, expression) for model in (full, half)]
    inputs = batch(architecture, padded=True)
    inputs = {name: t.float() if t.is_floating_point() else t for name, t in inputs.items()}
    expected, found = (answers(plan, inputs, **routes(expression)) for plan in plans)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype == torch.float32
        assert float((one - other).norm()) <= 0.05 * max(1.0, float(other.norm()))


@FEWER
@given(settings_of(), st.booleans())
def test_checkpointing(drawn: tuple[str, Expression], reentrant: bool) -> None:
    """Gradients of all adapters, fusions and heads, with checkpoints of either kind and without."""
    architecture, expression = drawn
    model = world(architecture)
    plan = planned(model, expression)
    inputs, route = batch(architecture, padded=True), routes(expression)
    answers(plan, inputs, **route)
    with trained(model, expression):
        found = []
        for checkpoints in (False, True):
            if checkpoints:
                model.gradient_checkpointing_enable({"use_reentrant": reentrant})
            out = plan(**inputs, **route)
            loss = sum((output.logits.square().sum() for output in out), torch.zeros((), dtype=torch.float64))
            found.append(backward(model, loss))
            model.gradient_checkpointing_disable()
    same(found[1], found[0], architecture)


@contextmanager
def trained(model: Model, expression: Expression) -> Iterator[None]:
    """A step of training without chance: dropout is off, and so is what draws anew."""
    asked = {name: p.requires_grad for name, p in model.named_parameters()}
    model.requires_grad_(False)
    for registry in (model.adapters, model.fusions, model.heads):
        registry.requires_grad_(True)
    for module in model.backbone.modules():
        if hasattr(module, "gradient_checkpointing"):
            module.training = True  # what checkpoints ask for; dropouts are modules of their own
    try:
        yield
    finally:
        model.gradient_checkpointing_disable()
        model.zero_grad()
        model.eval()
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(asked.get(name, False))


@pytest.fixture
def fresh() -> Iterator[None]:
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


@pytest.mark.parametrize("architecture", COMPILED)
def test_compiled_once_for_all_sizes(architecture: str, fresh: None) -> None:
    """Methods that other tests of `optimize` leave out."""
    names = COMPILED[architecture]
    model = tiny.model(architecture, 1)
    for seed, name in enumerate(names):
        preset, options = ADAPTERS[name]
        tiny.randomize(model.add_adapter(name, preset, **options), seed)
    plan = planned(model, Parallel(*names))
    optimized = plan.optimize(backend="eager")
    for rows, tokens in ((3, 7), (4, 9)):
        inputs = tiny.inputs(architecture, rows, tokens, padded=True)
        all_close(answers(optimized, inputs), answers(plan, inputs))
    assert counters["stats"]["unique_graphs"] == 1


@RARE
@given(settings_of())
def test_compiled(drawn: tuple[str, Expression]) -> None:
    architecture, expression = drawn
    plan = planned(world(architecture), expression)
    inputs, route = batch(architecture, padded=True), routes(expression)
    expected = answers(plan, inputs, **route)
    torch.compiler.reset()
    all_close(answers(plan.optimize(backend="eager"), inputs, **route), expected)
