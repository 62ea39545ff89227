"""Laws of every method and block, mixed: what compositions have in common with what they are made of."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st

from compose.dsl import (
    Average,
    BatchSplit,
    Drop,
    Expression,
    Fuse,
    Parallel,
    Route,
    Split,
    Stack,
    branches,
    fuses,
    leaves,
    own_name,
    walk,
)
from compose.errors import CompileError, ConfigError
from compose.graph.verify import verify
from compose.methods.fusions import FUSION_METHODS
from compose.methods.presets import PRESETS
from compose.methods.registry import METHODS, make_config
from compose.passes import NAMES
from compose.runtime.model import Model
from compose.runtime.runnable import RunnablePlan
from tests import tiny
from tests.laws import worlds
from tests.laws.test_files import files
from tests.laws.test_training import backward, gradients, loss_of, same
from tests.laws.worlds import (
    ADAPTERS,
    ARCHITECTURES,
    GATED,
    REFUSALS,
    ROWS,
    alone,
    batch,
    close,
    consistent_routes,
    drawn,
    fresh,
    is_gated,
    is_ragged,
    names_of,
    of_row,
    planned,
    refusal,
    routes,
    settings_of,
    states,
    world,
)
from tests.methods.shapes import FEWER

SINGLE = ("Stack", "Fuse", "Drop", "Average", "Split")
Drawn = tuple[str, Expression]


def plan_of(model: Model, expression: Expression, without: Sequence[str] = ()) -> RunnablePlan:
    """The plan of what was drawn; what is refused is passed over."""
    assume(consistent_routes(expression))
    plan = planned(model, expression, tuple(without))
    assume(plan is not None)
    assert plan is not None
    return plan


# what is drawn


def test_every_method_is_drawn() -> None:
    made = [make_config(preset) for preset, _ in {**ADAPTERS, **GATED}.values() if preset in PRESETS]
    assert all(make_config(preset) in made for preset in PRESETS)
    for architecture in ARCHITECTURES:
        held = {spec.method for spec in world(architecture).adapters.specs.values()}
        assert held == set(METHODS) - ({"layer_aggregation"} if architecture == "t5" else set())


def test_most_of_what_is_drawn_has_a_meaning() -> None:
    """Each method, block and kind of fusion stands in something that runs; the rest is refused for a known reason."""
    accepted: Counter[str] = Counter()
    refused: Counter[str] = Counter()

    @settings(max_examples=300, phases=[Phase.generate], derandomize=True, database=None)
    @given(settings_of())
    def draw(drawn: Drawn) -> None:
        architecture, expression = drawn
        model = world(architecture)
        try:
            worlds.give_fusions(model, expression)
            model.plan(expression)
        except CompileError as error:
            refused[refusal(error)] += 1
            return
        accepted["all"] += 1
        accepted.update(model.adapters.specs[name].method for name in leaves(expression))
        accepted.update(type(node).__name__ for _, node in walk(expression))
        accepted.update(model.fusions[own_name(fuse) or ""].config.method for fuse in fuses(expression))

    draw()
    assert sum(refused.values()) < accepted["all"] / 2
    assert not {*METHODS, *FUSION_METHODS, *worlds.ALL} - set(accepted)


@pytest.mark.parametrize(
    ("expression", "reason"),
    list(
        zip(
            (
                Average("plus", "a"),
                Fuse("a", "nice"),
                Fuse(None, name="nothing"),
                Stack("layers", "others"),
                Average("prefix", "long"),
                Split("prefix", "a", sizes=[1, None]),
                Stack("three", Split("a", "b", sizes=[1, None])),
                Average("three", "five"),
                Average("three", "three", normalize=False, weights=[1, 1]),
                Parallel(t=Route(u="a", v="b")),
                Fuse(BatchSplit("a", "b", sizes=[1, 3]), BatchSplit("a", "b", sizes=[2, 2]), name="cut"),
            ),
            REFUSALS,
            strict=True,
        )
    ),
)
def test_reasons(expression: Expression, reason: str) -> None:
    model = world("bert")
    with pytest.raises(CompileError) as refused:
        worlds.give_fusions(model, expression)
        model.plan(expression)
    assert refusal(refused.value) == reason


# what a composition is made of


@FEWER
@given(settings_of(), st.booleans())
def test_branches_equal_single_runs(drawn: Drawn, padded: bool) -> None:
    """Where prompts lengthen some branches, the others' rows end in padding."""
    architecture, expression = drawn
    model = world(architecture)
    plan = plan_of(model, expression)
    assume(not (is_gated(expression) and is_ragged(plan)))
    inputs, parted = batch(architecture, padded), branches(expression)
    found = states(plan, inputs, **routes(expression)).chunk(len(parted))
    for branch, rows in zip(parted, found, strict=True):
        expected = states(model.plan(branch.expression), inputs, **routes(branch.expression))
        close(rows[:, : expected.shape[1]], expected)


@FEWER
@given(settings_of(), st.booleans(), st.integers(0, ROWS - 1))
def test_each_row_is_its_own(drawn: Drawn, padded: bool, row: int) -> None:
    """In every branch what acts on it acts alone: whatever its batch mates, where they are routed, and the padding."""
    architecture, expression = drawn
    model = world(architecture)
    plan = plan_of(model, expression)
    sized = any(isinstance(node, Split) for _, node in walk(expression))
    assume(not (is_gated(expression) and (padded or is_ragged(plan))) and not (sized and padded))
    inputs, route, parted = batch(architecture, padded), routes(expression), branches(expression)
    found = states(plan, inputs, **route).chunk(len(parted))
    name = route["route"][row] if route else None
    for branch, rows in zip(parted, found, strict=True):
        single = of_row(branch.expression, row, ROWS, name)
        one = alone(inputs, row)
        expected = states(model.plan(single), one)[0]
        close(rows[row, : len(expected)], expected)


@FEWER
@given(settings_of(), st.booleans(), st.sets(st.sampled_from(NAMES)))
def test_passes_change_nothing(drawn: Drawn, padded: bool, without: set[str]) -> None:
    """Any of them left out; among them the one that folds fusions, whose plain form is the reference."""
    architecture, expression = drawn
    model = world(architecture)
    plan = plan_of(model, expression)
    other = model.plan(expression, tuple(without))
    verify(plan.plan.graph, model.vocabulary, NAMES)
    verify(other.plan.graph, model.vocabulary, set(NAMES) - without)
    inputs, route = batch(architecture, padded), routes(expression)
    close(states(other, inputs, **route), states(plan, inputs, **route))


@FEWER
@given(settings_of((*SINGLE, "BatchSplit", "Route")))
def test_identities(drawn: Drawn) -> None:
    architecture, expression = drawn
    model = world(architecture)
    plan = plan_of(model, expression)
    inputs, route = batch(architecture, padded=True), routes(expression)
    expected = states(plan, inputs, **route)
    for equal in (Stack(expression), Drop(expression, first=0), Parallel(expression)):
        close(states(model.plan(equal), inputs, **route), expected)
    # refused where prompts or what closes differ from None, or rows of one child have prefixes of several lengths
    for average in (Average(expression, expression), Average(expression, None, weights=[1, 0])):
        same = planned(model, average)
        if same is not None:
            close(states(same, inputs, **route), expected)
    nothing = Drop(expression, first=worlds.layers_of(architecture))
    assert torch.equal(states(model.plan(nothing), inputs, **route), states(model.plan(None), inputs))


@FEWER
@given(st.sampled_from(ARCHITECTURES), st.data())
def test_stack_is_associative(architecture: str, data: st.DataObject) -> None:
    model, inputs = world(architecture), batch(architecture)
    a, b, c = (data.draw(drawn(architecture, (*SINGLE, "BatchSplit", "Route"), 2)) for _ in range(3))
    plan = plan_of(model, Stack(a, b, c))
    route = routes(plan.expression)
    flat = states(plan, inputs, **route)
    close(states(model.plan(Stack(Stack(a, b), c)), inputs, **route), flat)
    close(states(model.plan(Stack(a, Stack(b, c))), inputs, **route), flat)


@contextmanager
def headed(model: Model, plan: RunnablePlan) -> Iterator[None]:
    """A head of its own size for each output of a plan."""
    poolings = ("mean", "last", "first")
    names = sorted({output.head for output in plan.plan.outputs if output.head is not None})
    for number, name in enumerate(names):
        tiny.randomize(model.add_head(name, labels=2 + number % 3, pooling=poolings[number % 3]), number)
    yield
    for name in names:
        model.delete_head(name)


@FEWER
@given(settings_of(), st.data())
def test_tasks_are_entries_of_the_whole(drawn: Drawn, data: st.DataObject) -> None:
    architecture, expression = drawn
    model = world(architecture)
    plan = plan_of(model, expression)
    assume(all(output.head is not None for output in plan.plan.outputs))
    assume(not (is_gated(expression) and is_ragged(plan)))
    inputs, route = batch(architecture, padded=True), routes(expression)
    wanted = sorted(data.draw(st.sets(st.integers(0, len(plan.plan.outputs) - 1), min_size=1)))
    with headed(model, plan), torch.no_grad():
        every, some = plan(**inputs, **route), plan(**inputs, **route, tasks=wanted)
    assert len(some) == len(wanted)
    for position, output in zip(wanted, some, strict=True):
        close(output.logits, every[position].logits)


# training


@FEWER
@given(settings_of(), st.booleans())
def test_gradients_are_those_of_single_runs(drawn: Drawn, padded: bool) -> None:
    """Of every weight: what all branches give it together is the sum of what each gives it alone."""
    architecture, expression = drawn
    model = world(architecture)
    plan = plan_of(model, expression)
    assume(leaves(expression) and not (is_gated(expression) and is_ragged(plan)))
    inputs, parted = batch(architecture, padded), branches(expression)
    together = plan.states(**inputs, **routes(expression)).last_hidden_state.chunk(len(parted))
    total: torch.Tensor | float = 0.0
    expected: dict[str, torch.Tensor] = {}
    for branch, rows in zip(parted, together, strict=True):
        single = model.plan(branch.expression).states(**inputs, **routes(branch.expression)).last_hidden_state
        total = total + weighted(rows[:, : single.shape[1]])
        if single.requires_grad:
            for name, gradient in gradients(model, weighted(single)).items():
                expected[name] = expected[name] + gradient if name in expected else gradient
    assume(isinstance(total, torch.Tensor) and total.requires_grad)
    same(gradients(model, total), expected)


def weighted(found: torch.Tensor) -> torch.Tensor:
    """A scalar that every state matters to."""
    generator = torch.Generator().manual_seed(0)
    return (found * torch.randn(found.shape, generator=generator, dtype=found.dtype)).sum()


@contextmanager
def in_training(model: Model) -> Iterator[None]:
    """Dropout as it is in training, drawn alike each time; weights as they were afterwards."""
    asked = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    before = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    model.train()
    try:
        yield
    finally:
        model.eval()
        model.zero_grad()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(asked.get(name, True))
                if name in before and not torch.equal(parameter, before[name]):
                    parameter.copy_(before[name])


@cache
def trained(architecture: str) -> Model:
    """A copy, since checkpointing and steps change a model."""
    return copy.deepcopy(world(architecture))


@FEWER
@given(settings_of(), st.booleans())
def test_checkpointing_changes_nothing(drawn: Drawn, reentrant: bool) -> None:
    """In training mode, dropout and drops drawn alike."""
    architecture, expression = drawn
    model = trained(architecture)
    plan = plan_of(model, expression)
    assume(leaves(expression))
    inputs, route = batch(architecture, padded=True), routes(expression)
    found = []
    with in_training(model):
        for enabled in (False, True):
            if enabled:
                model.gradient_checkpointing_enable({"use_reentrant": reentrant})
            torch.manual_seed(0)
            model.drop_generator.seed(0)
            loss = loss_of(plan, inputs, **route)
            found.append(backward(model, loss) if loss.requires_grad else {})
        model.gradient_checkpointing_disable()
    same(*found)


@FEWER
@given(settings_of(), st.data())
def test_a_step_leaves_all_else_as_it_was(drawn: Drawn, data: st.DataObject) -> None:
    """Frozen weights bit for bit; what was pruned stays zero."""
    architecture, expression = drawn
    model = trained(architecture)
    plan = plan_of(model, expression)
    regimes = [regime for regime, some in (("adapters", leaves(expression)), ("fusion", fuses(expression))) if some]
    assume(regimes)
    inputs, route = batch(architecture, padded=True), routes(expression)
    with in_training(model):
        try:
            model.train_only(expression, data.draw(st.sampled_from(regimes)))
        except ConfigError:  # a fusion without weights of its own
            assume(False)
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        asked = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        loss = loss_of(plan, inputs, **route)
        assume(loss.requires_grad)
        loss.backward()
        torch.optim.AdamW(asked.values(), lr=0.01).step()
        states(plan, inputs, **route)
        changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
        assert changed and changed <= set(asked)
        for name in {"sparse", "thin"} & set(leaves(expression)):
            adapter = model.adapters[name]
            masks, weights = adapter.masks.by_name(), adapter.weights()
            assert masks and all(not weights[key][~mask].any() for key, mask in masks.items())


# weights and files


def mergeable(model: Model) -> list[str]:
    """The adapters that can be multiplied into the backbone's weights."""
    found = []
    for name in model.adapters.names:
        try:
            with model.merge(name):
                found.append(name)
        except ConfigError:
            pass
    return found


@FEWER
@given(st.sampled_from(ARCHITECTURES), st.data())
def test_merged_equals_unmerged(architecture: str, data: st.DataObject) -> None:
    """In expressions that begin with it; others are refused."""
    model, inputs = world(architecture), batch(architecture)
    name = data.draw(st.sampled_from(MERGEABLE[architecture]))
    expression = data.draw(st.just(name) | drawn(architecture).map(lambda rest: Stack(name, rest)))
    plan = plan_of(model, expression)
    route, before = routes(expression), [weight.clone() for weight in model.backbone.parameters()]
    expected = states(plan, inputs, **route)
    with model.merge(name):
        try:
            found = states(model.plan(expression), inputs, **route)
        except CompileError as error:
            assert "merged into the backbone's weights" in str(error)
            found = expected
    close(found, expected)
    assert all(map(torch.equal, before, model.backbone.parameters()))


class Mergeable(dict[str, list[str]]):
    """By architecture, found out when asked for."""

    def __missing__(self, architecture: str) -> list[str]:
        self[architecture] = found = mergeable(world(architecture))
        assert {"lora", "full", "ia3", "dora", "vera", "dvora", "mtl", "thin", "joined"} <= set(found)
        return found


MERGEABLE = Mergeable()


@pytest.mark.parametrize(("number", "architecture"), list(enumerate(ARCHITECTURES)))
def test_saved_loaded_and_saved_again(number: int, architecture: str, tmp_path: Path) -> None:
    """The same bytes, and the same weights, bit for bit; each adapter on one of the architectures."""
    first, second = world(architecture), fresh(architecture)
    for name in names_of(architecture)[number :: len(ARCHITECTURES)]:
        one, two = tmp_path / name / "one", tmp_path / name / "two"
        first.save_adapter(name, one)
        assert second.load_adapter(one) == name
        second.save_adapter(name, two)
        assert files(two) == files(one)
        ours, theirs = first.adapters[name], second.adapters[name]
        assert ours.config == theirs.config and ours.spec == theirs.spec
        assert ours.tensors().keys() == theirs.tensors().keys()
        assert all(torch.equal(tensor, theirs.tensors()[key]) for key, tensor in ours.tensors().items())
