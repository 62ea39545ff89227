"""`plan.optimize()`: the same numbers, compiled once for all sizes, never stale."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from compose.dsl import Average, BatchSplit, Drop, Expression, Fuse, Parallel, Route, Stack
from compose.errors import BackboneError, CompileError, ConfigError, InputError
from compose.runtime.folds import foldable
from compose.runtime.model import Model
from compose.runtime.optimized import OptimizedPlan
from compose.runtime.runnable import RunnablePlan
from tests import tiny

FUSED = Parallel(
    Fuse("a", "b"),
    BatchSplit("a", "b", sizes=[1, None]),
    t=Stack("b", Fuse("a", Stack("b", "lora"), None, name="f")),
    drop=Drop("a", first=1),
    average=Average("a", "b", weights=[1, 3]),
)


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


def model_of(architecture: str = "bert", layers: int = 1, dtype: torch.dtype = torch.float64) -> Model:
    model = tiny.model(architecture, layers, dtype)
    for seed, (name, preset) in enumerate((("a", "seq_bn"), ("b", "double_seq_bn"), ("lora", "lora"))):
        tiny.randomize(model.add_adapter(name, preset), seed, 0.2)
    for fuse in (Fuse("a", "b"), Fuse("a", Stack("b", "lora"), None, name="f")):
        tiny.randomize(model.add_fusion(fuse), 7, 0.2)
    for name in ("a", "b"):
        tiny.randomize(model.add_head(name, labels=2, pooling="first", dropout=0.0), len(name), 0.5)
    return model


def inputs_of(architecture: str, rows: int, tokens: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Any:
    return tiny.inputs(architecture, rows, tokens, padded=tokens > 1, seed=seed, dtype=dtype)


def agrees(optimized: OptimizedPlan, plan: RunnablePlan, inputs: Any, tolerance: float = 1e-9, **options: Any) -> None:
    with torch.no_grad():
        expected = plan.states(**inputs, **options).last_hidden_state
    found = optimized.states(**inputs, **options).last_hidden_state
    assert found.shape == expected.shape and not found.requires_grad
    assert float((found - expected).abs().max()) <= tolerance * max(1.0, float(expected.abs().max()))


def compiled() -> int:
    """How often Dynamo has compiled since the test began."""
    return int(counters["stats"]["unique_graphs"])


def test_any_size_is_compiled_once() -> None:
    """That of other architectures as well, tests/laws/test_optimizations.py shows."""
    plan = model_of().plan(FUSED)
    optimized = plan.optimize(backend="eager")
    for rows, tokens in ((3, 7), (5, 9), (2, 6), (4, 12)):
        agrees(optimized, plan, inputs_of("bert", rows, tokens))
    assert compiled() == 1


def test_one_row_is_a_case_of_its_own() -> None:
    plan = model_of().plan("lora")
    optimized = plan.optimize(backend="eager")
    for rows, tokens in ((3, 7), (1, 5), (1, 8), (2, 4)):
        agrees(optimized, plan, inputs_of("bert", rows, tokens))
    assert compiled() == 2


def test_images() -> None:
    plan = model_of("vit").plan(Parallel("a", Fuse("a", "b")))
    optimized = plan.optimize(backend="eager")
    for rows in (2, 5):
        agrees(optimized, plan, inputs_of("vit", rows, 0))
    assert compiled() == 1


def test_routes_of_any_sizes_are_compiled_once() -> None:
    """Also where no row, or one, goes to a task."""
    plan = model_of().plan(Route(a="a", b="b"))
    optimized = plan.optimize(backend="eager")
    for route in (["a", "b", "b"], ["b", "a", "a", "b"], ["a", "a"], ["b", "a", "a", "a", "a"]):
        inputs = inputs_of("bert", len(route), 4 + len(route))
        agrees(optimized, plan, inputs, route=route)
        with torch.no_grad():
            expected = plan(**inputs, route=route)
        for found, other in zip(optimized(**inputs, route=route), expected, strict=True):
            torch.testing.assert_close(found.logits, other.logits)
    assert compiled() == 1


def test_fusions_are_folded_outside_and_never_stale() -> None:
    model = model_of()
    plan = model.plan(Parallel("a", Fuse("a", "b")))
    optimized = plan.optimize(backend="eager")
    fusions = foldable(plan._bindings.get(False, None).programs.values())
    assert fusions and all(len(one.parts) == 2 and not one.dense for one in fusions if one.key[1] == "ffn")
    inputs = inputs_of("bert", 3, 6)
    agrees(optimized, plan, inputs)
    before = optimized.states(**inputs).last_hidden_state
    products = [one.fusion.fold([part.factors() for part in one.parts]) for one in fusions]  # type: ignore[misc]
    assert all(new.scores is old.scores for new, old in zip([one.fold() for one in fusions], products, strict=True))
    for name, module in (("adapter", model.adapters["a"]), ("fusion", model.fusions["a,b"])):
        tiny.randomize(module, 30, 0.3)
        agrees(optimized, plan, inputs)
        after = optimized.states(**inputs).last_hidden_state
        assert not torch.allclose(before, after), name
        before = after
    assert compiled() == 1


def test_adapters_that_come_and_go() -> None:
    model = model_of()
    plan = model.plan("a")
    optimized = plan.optimize(backend="eager")
    inputs = inputs_of("bert", 3, 6)
    agrees(optimized, plan, inputs)
    before = optimized.states(**inputs).last_hidden_state
    model.add_adapter("another", "lora")
    agrees(optimized, plan, inputs)
    assert compiled() == 1, "another name is no matter"
    model.delete_adapter("a")
    with pytest.raises(CompileError, match="no adapter 'a'"):
        optimized.states(**inputs)
    tiny.randomize(model.add_adapter("a", "double_seq_bn"), 20, 0.3)
    agrees(optimized, plan, inputs)
    assert compiled() == 2 and not torch.allclose(before, optimized.states(**inputs).last_hidden_state)


def test_more_plans_than_dynamo_recompiles() -> None:
    """Each plan has its own count of what was compiled."""
    model = model_of()
    inputs = inputs_of("bert", 2, 3)
    with torch._dynamo.config.patch(recompile_limit=1):
        for expression in ("lora", Drop("lora", first=1)):
            plan = model.plan(expression)
            agrees(plan.optimize(backend="eager"), plan, inputs)
    assert compiled() == 2


def test_a_call_with_heads_and_labels() -> None:
    model = model_of()
    plan = model.plan(Parallel("a", "b"))
    optimized = plan.optimize(backend="eager")
    inputs = inputs_of("bert", 3, 6)
    labels = {"a": torch.tensor([0, 1, 1])}
    found, expected = optimized(**inputs, labels=labels), plan(**inputs, labels=labels)
    assert optimized.tasks == plan.tasks == ("a", "b") and list(found.keys()) == ["a", "b"]
    torch.testing.assert_close(found.loss, expected.loss.detach())  # type: ignore[union-attr]
    one = optimized(**inputs, tasks=["b"])
    assert list(one.keys()) == ["b"]
    torch.testing.assert_close(one["b"].logits, expected["b"].logits.detach())
    assert optimized.heads_of() == plan.heads_of() and repr(optimized) == '<optimized plan of Parallel("a", "b")>'


def test_what_runs_uncompiled() -> None:
    """Training, and options that are no tensors: as the plan itself."""
    model = model_of()
    plan = model.plan(Parallel("a", "b"))
    optimized = plan.optimize(backend="eager")
    inputs = inputs_of("bert", 3, 6)
    assert len(optimized.states(**inputs, output_hidden_states=True).hidden_states) == 2
    model.train_only("a")
    model.train()
    loss = optimized(**inputs, labels={"a": torch.tensor([0, 1, 1])}).loss
    assert loss is not None
    loss.backward()
    assert model.adapters["a"].part(0, "ffn").up.weight.grad is not None
    assert compiled() == 0


def test_errors_are_those_of_the_plan() -> None:
    model = model_of()
    optimized = model.plan("a").optimize(backend="eager")
    with pytest.raises(InputError, match="empty"):
        optimized.states(input_ids=torch.zeros((0, 3), dtype=torch.long))
    original = model.backbone.forward

    def broken(*args: Any, **inputs: Any) -> Any:
        torch._dynamo.graph_break()
        return original(*args, **inputs)

    model.backbone.forward = broken  # type: ignore[method-assign]
    with pytest.raises(BackboneError, match="BertModel cannot be compiled"):
        optimized.states(**inputs_of("bert", 3, 6))


# torch's own module of fusions for older hardware is built with what torch deprecates.
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")
@pytest.mark.skipif(shutil.which("c++") is None and shutil.which("g++") is None, reason="no C++ compiler")
def test_inductor() -> None:
    model = model_of(dtype=torch.float32)
    expression: Expression = Fuse("a", "b")
    plan = model.plan(expression)
    optimized = plan.optimize()
    for rows, tokens in ((3, 7), (2, 4)):
        agrees(optimized, plan, inputs_of("bert", rows, tokens), 1e-5)
    assert compiled() == 1


def test_what_torch_does_not_know() -> None:
    with pytest.raises(ConfigError, match="no backend 'nope'") as both:
        tiny.model().plan(None).optimize(mode="fastest", backend="nope")
    assert "no mode 'fastest'" in str(both.value)
