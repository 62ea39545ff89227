"""Many adapters on one backbone: what a call, a plan and a megabyte have to do with those that they do not use."""

from __future__ import annotations

import gc
import tracemalloc
from typing import Any

import pytest
import torch

from compose.compile import compile_plan
from compose.dsl import Drop, Fuse, Parallel, Stack
from compose.errors import ComposeError
from compose.graph.sites import Vocabulary
from compose.methods.registry import make_config
from compose.runtime.model import Model
from tests import tiny
from tests.counting import calls
from tests.graph.test_exact_flops import bert_base
from tests.graph.vocabularies import backbone

OPTIONS: dict[str, Any] = {"bottleneck_size": 4}


def with_adapters(count: int) -> Model:
    model = tiny.model("bert", 2, torch.float32)
    for number in range(count):
        model.add_adapter(f"a{number}", "seq_bn", **OPTIONS)
    model.add_fusion(Fuse("a0", "a1"))
    for name in ("a0", "a1", "a0,a1"):
        model.add_head(name, "classification", labels=3)
    return model


@pytest.mark.parametrize("expression", ["a0", Parallel("a0", Fuse("a0", "a1")), Parallel("a0", Drop("a1", first=1))])
def test_a_call_does_not_see_adapters_that_it_does_not_use(expression: Any) -> None:
    batch = tiny.inputs("bert", padded=True)
    few, many = with_adapters(2), with_adapters(80)
    for model in (few, many):
        model.requires_grad_(False)
    assert calls(few.plan(expression), **batch) == calls(many.plan(expression), **batch)
    for model in (few, many):
        model.train_only(expression)
        model.train()
        model.activate(expression)
    labels = {task: [0, 1, 2] for task in few.plan(expression).tasks}
    assert calls(few, **batch, labels=labels) == calls(many, **batch, labels=labels)


def test_choosing_a_plan_costs_the_same_with_many() -> None:
    expression = Parallel("a0", Stack("a1", "a0"))
    few, many = with_adapters(2), with_adapters(80)
    for given in (expression, expression.text):
        assert calls(few.plan, given) == calls(many.plan, given) < 15
    assert few.plan(expression) is few.plan(expression.text)


def test_a_plan_stays_bound_when_others_come_and_go(monkeypatch: pytest.MonkeyPatch) -> None:
    model = with_adapters(3)
    plan = model.plan(Parallel("a0", Fuse("a0", "a1")))
    batch = tiny.inputs("bert")
    before, bound = plan(**batch), plan._bindings.get(False, None)
    compiled: list[object] = []
    monkeypatch.setattr("compose.compile.build", lambda *args: compiled.append(args))
    model.add_adapter("late", "lora")
    model.delete_adapter("a2")
    model.add_head("late", "tagging", labels=2)
    after = plan(**batch)
    assert plan._bindings.get(False, None) is bound and not compiled
    assert torch.equal(before["a0"].logits, after["a0"].logits)


def test_a_plan_is_bound_anew_when_its_own_change() -> None:
    model = with_adapters(2)
    plan = model.plan("a0")
    batch = tiny.inputs("bert")
    before, bound = plan(**batch), plan._bindings.get(False, None)
    model.delete_adapter("a0")
    with pytest.raises(ComposeError, match="a0"):
        plan(**batch)
    tiny.randomize(model.add_adapter("a0", "seq_bn", **OPTIONS))
    after = plan(**batch)
    assert plan._bindings.get(False, None) is not bound
    assert not torch.equal(before["a0"].logits, after["a0"].logits)
    model.double()
    assert plan(**batch)["a0"].logits.dtype == torch.float64


def test_an_adapter_costs_its_own_bytes_and_little_more() -> None:
    spec = bert_base()
    own = 4 * sum(part.parameters for part in make_config("seq_bn").describe("a", spec).parts)
    model = tiny.model("bert", 2, torch.float32)
    model.add_adapter("warm", "seq_bn", **OPTIONS)
    tracemalloc.start()
    try:
        costs = []
        for start in (0, 100):
            gc.collect()
            before = tracemalloc.get_traced_memory()[0]
            for number in range(start, start + 100):
                model.add_adapter(f"a{number}", "seq_bn", **OPTIONS)
            gc.collect()
            costs.append((tracemalloc.get_traced_memory()[0] - before) / 100)
    finally:
        tracemalloc.stop()
    # Weights lie outside of what is traced. An adapter has 2 parts here, and 12 on BERT-base.
    assert max(costs) * 6 < 0.06 * own
    assert costs[1] < 1.3 * costs[0]


def test_the_work_of_compiling_grows_with_the_plan_and_no_faster() -> None:
    spec = backbone("post", 12)
    adapters = {name: make_config("seq_bn").describe(name, spec) for name in (f"a{number}" for number in range(80))}
    words = Vocabulary(spec, adapters, {})
    work = {count: calls(compile_plan, Parallel(*list(adapters)[:count]), words) for count in (8, 80)}
    assert work[80] < 11 * work[8]
    assert work[8] < 8 * 12 * 500  # in functions called, for each adapter and layer
