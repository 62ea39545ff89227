"""Laws of training: gradients, checkpointing, frozen bytes."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from compose.dsl import Expression, Fuse, Parallel, Stack
from tests import tiny
from tests.laws.worlds import batch, planned, settings_of, world

CHECKPOINTED = ("bert", "gpt2", "llama", "t5")


def loss_of(plan: Any, inputs: dict[str, torch.Tensor], seed: int = 0, **options: Any) -> torch.Tensor:
    """A scalar that every state matters to."""
    found = plan.states(**inputs, **options).last_hidden_state
    generator = torch.Generator().manual_seed(seed)
    return (found * torch.randn(found.shape, generator=generator, dtype=found.dtype)).sum()


def gradients(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    """The gradient of every weight that has one."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    found = torch.autograd.grad(loss, [p for _, p in named], allow_unused=True)
    return {name: grad for (name, _), grad in zip(named, found, strict=True) if grad is not None}


def tolerance(architecture: str) -> float:
    """RMSNorm squares its input in float32, whatever the backbone's type."""
    return 1e-6 if architecture in ("t5", "llama") else 1e-9


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], architecture: str = "bert") -> None:
    """Equal gradients; one that is missing is 0."""
    for name in found.keys() | expected.keys():
        left, right = found.get(name), expected.get(name)
        scale = max(float(g.abs().max()) for g in (left, right) if g is not None)
        zero = torch.zeros(())
        difference = (left if left is not None else zero) - (right if right is not None else zero)
        assert float(difference.abs().max()) <= tolerance(architecture) * max(1.0, scale), name


@given(settings_of(("Stack", "Fuse", "Drop", "Average", "Parallel")))
@settings(max_examples=60)
def test_fusion_forms_have_equal_gradients(drawn: tuple[str, Expression]) -> None:
    """The reference form of fusions against the unfolded one, ungrouped and unshared against as it runs."""
    architecture, expression = drawn
    model = world(architecture)
    plan = planned(model, expression)
    assume(plan is not None and model.plan(expression).plan.programs)
    inputs = batch(architecture, padded=True)
    plain = model.plan(expression, ("fold", "group", "share", "fork"))
    same(gradients(model, loss_of(plan, inputs)), gradients(model, loss_of(plain, inputs)), architecture)


@pytest.fixture
def trained() -> Any:
    """Models of their own, since checkpointing changes them."""

    def make(architecture: str) -> Any:
        model = tiny.model(architecture, 3)
        for seed, (name, preset) in enumerate((("a", "seq_bn"), ("b", "double_seq_bn"), ("c", "lora"))):
            tiny.randomize(model.add_adapter(name, preset), seed)
        tiny.randomize(model.add_fusion(Fuse("a", "b")), 5, 0.2)
        return model

    return make


EXPRESSIONS = (
    Parallel("a", Stack("a", "b")),
    Parallel(Fuse("a", "b"), "c"),
    Stack("c", Fuse("a", "b")),
)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("architecture", CHECKPOINTED)
def test_checkpointing_changes_nothing(trained: Any, architecture: str, reentrant: bool) -> None:
    model = trained(architecture)
    model.train()
    inputs = tiny.inputs(architecture, padded=True)
    for expression in EXPRESSIONS:
        plan = model.plan(expression)
        model.train_only(expression, "full+adapters" if reentrant else "adapters")
        expected = backward(model, loss_of(plan, inputs))
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        found = backward(model, loss_of(plan, inputs))
        model.gradient_checkpointing_disable()
        same(found, expected, architecture)


def backward(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    """Gradients by `backward`, which reentrant checkpoints need."""
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("reentrant", [False, True])
def test_two_plans_then_both_backwards(trained: Any, reentrant: bool) -> None:
    """One backward in a thread of its own, the other plan's forward and backward between."""
    model = trained("bert")
    model.train()
    inputs = tiny.inputs("bert", padded=True)
    first, second = (model.plan(expression) for expression in EXPRESSIONS[:2])
    model.requires_grad_(True)
    expected = [backward(model, loss_of(plan, inputs, seed)) for seed, plan in enumerate((first, second))]
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    losses = [loss_of(plan, inputs, seed) for seed, plan in enumerate((first, second))]
    found: list[dict[str, torch.Tensor]] = []

    def run(loss: torch.Tensor) -> None:
        found.append(backward(model, loss))

    for loss in reversed(losses):
        thread = threading.Thread(target=run, args=(loss,))
        thread.start()
        thread.join()
    same(found[1], expected[0])
    same(found[0], expected[1])


@given(st.sampled_from(["adapters", "fusion", "heads"]), st.sampled_from(["bert", "gpt2"]))
@settings(max_examples=12)
def test_frozen_bytes_stay(regime: Any, architecture: str) -> None:
    model = tiny.model(architecture)
    for name in ("a", "b", "other"):
        model.add_adapter(name, "seq_bn")
    fuse = Fuse("a", "b")
    model.add_fusion(fuse)
    model.add_head("a,b", "classification", labels=2)
    trainable = model.train_only(fuse, regime)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    asked = [p for p in model.parameters() if p.requires_grad]
    assert sum(p.numel() for p in asked) == trainable.count
    optimizer = torch.optim.AdamW(asked, lr=0.01)
    plan = model.plan(fuse)
    for _ in range(2):
        optimizer.zero_grad()
        plan(**tiny.inputs(architecture), labels=torch.tensor([0, 1, 1])).loss.backward()
        optimizer.step()
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert not changed & frozen
    assert len(changed) >= 0.5 * len(asked)
