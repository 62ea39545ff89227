"""A plan's trunk run apart gives what the whole gives."""

from __future__ import annotations

import pytest
import torch

from compose import Drop, Parallel
from compose.errors import InputError
from compose.runtime.model import Model
from compose.runtime.runnable import RunnablePlan
from compose.runtime.trunk import TrunkStates
from tests import tiny

ENTERED = ("bert", "roberta", "distilbert", "gpt2", "llama", "vit")
LAYERS = 4


def model_of(architecture: str = "bert") -> Model:
    model = tiny.model(architecture, LAYERS)
    for seed, (name, preset) in enumerate((("a", "seq_bn"), ("b", "double_seq_bn"), ("lora", "lora"))):
        tiny.randomize(model.add_adapter(name, preset), seed)
    return model


@pytest.mark.parametrize("padded", [False, True], ids=["unpadded", "padded"])
@pytest.mark.parametrize("architecture", ENTERED)
def test_states_are_those_of_the_whole(architecture: str, padded: bool) -> None:
    model, inputs = model_of(architecture), tiny.inputs(architecture, padded=padded)
    plan = model.plan(Parallel(Drop("a", first=2), Drop("lora", first=3)))
    trunk = plan.trunk_states(**inputs)
    assert plan.trunk == trunk.depth == 2
    with torch.no_grad():
        found = plan.states(**inputs, trunk_states=trunk).last_hidden_state
        expected = plan.states(**inputs).last_hidden_state
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("architecture", ENTERED)
def test_layers_of_the_trunk_do_not_run(architecture: str) -> None:
    model, inputs = model_of(architecture), tiny.inputs(architecture)
    plan = model.plan(Drop("b", first=3))
    trunk = plan.trunk_states(**inputs)
    ran: list[int] = []
    for layer in model.hooks.anatomy.layers:
        layer.layer.register_forward_hook(lambda *_, index=layer.index: ran.append(index))
    plan.states(**inputs, trunk_states=trunk)
    assert ran == [3]


def test_a_plan_without_adapters_is_all_trunk() -> None:
    model, inputs = model_of(), tiny.inputs()
    plan = model.plan(Drop("a", first=LAYERS))
    assert plan.trunk == LAYERS
    found = plan.states(**inputs, trunk_states=plan.trunk_states(**inputs))
    expected = model.plan(None).states(**inputs)
    torch.testing.assert_close(found.last_hidden_state, expected.last_hidden_state, rtol=0, atol=0)
    torch.testing.assert_close(found.pooler_output, expected.pooler_output, rtol=0, atol=0)


def test_what_is_trained_is_no_trunk() -> None:
    model = model_of()
    plan = model.plan(Drop("a", first=3))
    model.train_only(Drop("a", first=3), "last_layers", last=2)
    assert plan.trunk == 2
    model.train_only(Drop("a", first=3), "full")
    assert plan.trunk == 0


def test_gradients_are_those_of_the_whole() -> None:
    model, inputs = model_of(), tiny.inputs(padded=True)
    plan = model.plan(Drop("a", first=2))
    model.train_only("a", "adapters")
    trunk = plan.trunk_states(**inputs)
    gradients = []
    for given in ({}, {"trunk_states": trunk}):
        model.zero_grad()
        plan.states(**inputs, **given).last_hidden_state.square().mean().backward()
        gradients.append([p.grad.clone() for p in model.adapters["a"].parameters() if p.grad is not None])
    assert gradients[0]
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-9, atol=1e-9)


def test_dropout_is_off_in_the_trunk() -> None:
    model, inputs = model_of(), tiny.inputs()
    plan = model.plan(Drop("a", first=2))
    model.train()
    trunk = plan.trunk_states(**inputs)
    assert model.training
    torch.testing.assert_close(trunk.states, plan.trunk_states(**inputs).states, rtol=0, atol=0)


def test_states_that_do_not_fit() -> None:
    model, inputs = model_of(), tiny.inputs(rows=3)
    shallow, deep = model.plan(Drop("a", first=1)), model.plan(Drop("a", first=3))
    with pytest.raises(InputError, match="3 layers, but the plan's trunk has 1"):
        shallow.states(**inputs, trunk_states=deep.trunk_states(**inputs))
    with pytest.raises(InputError, match="is a int, but TrunkStates"):
        shallow.states(**inputs, trunk_states=3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"5 tokens for a batch of 3 and \d"):
        fewer = {name: tensor[:, :5] for name, tensor in inputs.items()}
        shallow.states(**inputs, trunk_states=shallow.trunk_states(**fewer))
    with pytest.raises(InputError, match=r"3 rows and \d tokens for a batch of 2"):
        shallow.states(**tiny.inputs(rows=2), trunk_states=shallow.trunk_states(**inputs))
    with pytest.raises(InputError, match="3 places, but 1"):
        states = shallow.trunk_states(**inputs).states
        shallow.states(**inputs, trunk_states=TrunkStates(1, states * 3))
    with pytest.raises(InputError, match="no trunk"):
        model.plan("a").trunk_states(**inputs)


def test_t5_has_no_trunk() -> None:
    assert model_of("t5").plan(None).trunk == 0


@pytest.mark.parametrize("way", ("plan", "trunk states", "apart"))
@pytest.mark.parametrize("architecture", ("bert", "gpt2"))
def test_reentrant_checkpoints_above_a_trunk_hand_gradients_on(architecture: str, way: str) -> None:
    model, inputs = model_of(architecture), tiny.inputs(architecture)
    for name in ("a", "b"):
        model.add_head(name, labels=2, pooling="first")
    alone = Drop("a", first=2)
    plan = model.plan(Parallel(a=alone, b=Drop("b", first=2)) if way == "apart" else alone)
    model.train_only(alone)
    model.train()
    labels = {"a": torch.tensor([0, 1, 1])}
    found = []
    for options in (None, {"use_reentrant": True}):
        if options:
            model.gradient_checkpointing_enable(options)
        model.zero_grad()
        torch.manual_seed(0)  # GPT-2's heads have dropout
        given = {"trunk_states": plan.trunk_states(**inputs)} if way == "trunk states" else {}
        plan(**inputs, labels=labels, **given).loss.backward()
        found.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert any("adapters" in name for name in found[0]) and found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-9, atol=1e-12)


def test_why_there_is_no_trunk() -> None:
    model = model_of()

    def why(plan: RunnablePlan) -> str:
        with pytest.raises(InputError, match="no trunk") as caught:
            plan.trunk_states(**tiny.inputs())
        return caught.value.problems[0].why

    assert "Drop is random" in why(model.plan(Drop("a", first=(1, 3))))
    assert "cannot be entered" in why(model_of("t5").plan(None))
    model.add_head("a", labels=2)
    model.train_only("a", "heads")
    assert "frozen adapters end it too" in why(model.plan("a"))
    assert model.plan(Parallel(a=None)).trunk == LAYERS
    model.train_only("a", "full")
    assert "first layer are trained" in why(model.plan(None))
