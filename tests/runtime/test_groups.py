"""Siblings run together where that is faster; it changes nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from compose import Average, Parallel, Route, Stack
from compose.dsl import Expression
from compose.methods.bottleneck.module import BottleneckPart
from compose.methods.lora.module import LoraPart
from compose.runtime import groups
from compose.runtime.model import Model
from tests import tiny

METHODS = {"a": "seq_bn", "b": "seq_bn", "c": "lora", "d": "lora"}
PLANS = [Parallel("a", "b"), Parallel("c", "d"), Parallel(Stack("c", "a"), Stack("d", "b"), Average("a", "b"))]


def model_of(kind: str) -> Model:
    model = tiny.model(kind).double()
    for seed, (name, method) in enumerate(METHODS.items()):
        tiny.randomize(model.add_adapter(name, method), seed)
    return model


def states(model: Model, expression: Expression) -> Tensor:
    with torch.no_grad():
        result: Tensor = model.plan(expression).states(**tiny.inputs()).last_hidden_state
    return result


@pytest.mark.parametrize("expression", PLANS, ids=str)
@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama"])
def test_large_values_run_one_after_the_other(
    kind: str, expression: Expression, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(kind)
    together = states(model, expression)
    called: list[type] = []
    for part in (BottleneckPart, LoraPart):
        monkeypatch.setattr(part, "grouped", lambda *args, part=part: called.append(part))
    monkeypatch.setattr(groups, "CACHED", 0)
    torch.testing.assert_close(states(model, expression), together, rtol=1e-9, atol=1e-9)
    assert not called


def test_small_values_run_together(monkeypatch: pytest.MonkeyPatch) -> None:
    model, called = model_of("bert"), []
    grouped = BottleneckPart.grouped.__func__  # type: ignore[attr-defined]

    def count(cls: type, *args: object) -> object:
        called.append(cls)
        return grouped(cls, *args)

    monkeypatch.setattr(BottleneckPart, "grouped", classmethod(count))
    states(model, Parallel("a", "b"))
    assert len(called) == len(model.spec.layers)


class Copies(TorchDispatchMode):
    """Counts copies of a whole value into which rows are put."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += function is torch.ops.aten.index_copy.default
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("method", ["seq_bn", "prefix_tuning_flat"])
def test_a_route_puts_all_rows_together_at_once(method: str) -> None:
    """However many adapters rows are routed to; one copy for each would cost the square of their number."""
    model = tiny.model("bert").double()
    names = [f"a{number}" for number in range(6)]
    for seed, name in enumerate(names):
        tiny.randomize(model.add_adapter(name, method), seed)
    inputs = {name: tensor.repeat(2, 1)[:6] for name, tensor in tiny.inputs().items()}
    copies = {}
    for count in (2, 6):
        plan, route = model.plan(Route({name: name for name in names[:count]})), (names[:count] * 3)[:6]
        with torch.no_grad(), Copies() as counted:
            plan.states(**inputs, route=route)
        copies[count] = counted.count
    assert copies[6] == copies[2] > 0
