"""`torch.compile(plan, fullgraph=True)` gives the same numbers, and traces once."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from compose.dsl import Average, BatchSplit, Drop, Expression, Fuse, Parallel, Stack
from compose.runtime.model import Model
from tests import tiny

EVERYTHING = Parallel(
    "a",
    Fuse("a", "b"),
    None,
    BatchSplit("a", "c", sizes=[1, None]),
    stack=Stack("b", Stack("c", "lora")),
    drop=Drop("lora", first=1),
    average=Average("a", "b", weights=[1, 3]),
)
SINGLE = (Fuse("a", Stack("b", "c"), name="f"), BatchSplit("a", "b", sizes=[2, 1]))


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """What was compiled before counts towards Dynamo's limit of recompilations."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def model_of(architecture: str = "bert", layers: int = 2) -> Model:
    model = tiny.model(architecture, layers, torch.float32)
    for seed, (name, preset) in enumerate((("a", "seq_bn"), ("b", "double_seq_bn"), ("c", "par_bn"), ("lora", "lora"))):
        tiny.randomize(model.add_adapter(name, preset), seed, 0.2)
    for fuse in (Fuse("a", "b"), Fuse("a", Stack("b", "c"), name="f")):
        tiny.randomize(model.add_fusion(fuse), 7, 0.1)
    for name in ("a", "b", "c", "a,b"):
        tiny.randomize(model.add_head(name, labels=2, pooling="first", dropout=0.0), len(name), 0.5)
    return model


def inputs_of(architecture: str = "bert", rows: int = 3, seed: int = 0) -> dict[str, Tensor]:
    return tiny.inputs(architecture, rows, padded=True, seed=seed, dtype=torch.float32)


def same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def states(call: Any, inputs: dict[str, Tensor]) -> Tensor:
    found: Tensor = call(**inputs).last_hidden_state
    return found


def test_states() -> None:
    plan = model_of().plan(EVERYTHING)
    compiled = torch.compile(plan.states, fullgraph=True, backend="eager")
    with torch.no_grad():
        for seed in (0, 1):
            inputs = inputs_of(seed=seed)
            with torch.compiler.set_stance("fail_on_recompile" if seed else "default"):
                found = states(compiled, inputs)
            same(found, states(plan.states, inputs))


@pytest.mark.parametrize("expression", SINGLE, ids=str)
def test_single_branches(expression: Expression) -> None:
    plan = model_of(layers=1).plan(expression)
    inputs = inputs_of()
    with torch.no_grad():
        found = states(torch.compile(plan.states, fullgraph=True, backend="eager"), inputs)
        same(found, states(plan.states, inputs))


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "t5"])
def test_training(architecture: str) -> None:
    """A whole call with heads and labels; its loss and its gradients, again after a step."""
    model = model_of(architecture, layers=1)
    fused = Fuse("a", "b") if architecture == "bert" else Stack("a", "b")
    expression = Parallel("a", {"a,b": fused, "c": "c"})
    plan = model.plan(expression)
    trainable = model.train_only(expression, "adapters")
    assert trainable.count
    model.train()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    labels = {"a": torch.tensor([0, 1, 1]), "c": torch.tensor([1, 0, 1])}
    backend = "aot_eager" if architecture == "bert" else "eager"  # the former takes its time
    compiled = torch.compile(plan, fullgraph=True, backend=backend)
    for seed in (0, 1):
        inputs = inputs_of(architecture, seed=seed)
        with torch.compiler.set_stance("fail_on_recompile" if seed else "default"):
            found = compiled(**inputs, labels=labels)
        expected = plan(**inputs, labels=labels)
        for task in ("a", "a,b", "c"):
            same(found[task].logits, expected[task].logits)
        same(found.loss, expected.loss)
        gradients = [torch.autograd.grad(out.loss, parameters, allow_unused=True) for out in (found, expected)]
        for left, right in zip(*gradients, strict=True):
            assert (left is None) <= (right is None)  # compiled code makes zeros of gradients that are not there
            if left is not None:
                same(left, torch.zeros_like(left) if right is None else right)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients[1], strict=True):
                if gradient is not None:
                    parameter.sub_(gradient, alpha=0.1)


def test_weights_that_change_are_seen() -> None:
    """In place, as an optimizer does, with a fusion that is folded outside of compiled code."""
    model = model_of(layers=1)
    plan = model.plan(Parallel("a", Fuse("a", "b")))
    compiled = torch.compile(plan, fullgraph=True, backend="eager")
    inputs = inputs_of()
    with torch.no_grad():
        before = [output.logits for output in compiled(**inputs)]
        for module in (model.adapters["a"], model.fusions["a,b"], model.heads["a"]):
            tiny.randomize(module, 30, 0.2)
        with torch.compiler.set_stance("fail_on_recompile"):
            after = [output.logits for output in compiled(**inputs)]
        for old, new, expected in zip(before, after, plan(**inputs), strict=True):
            same(new, expected.logits)
            assert not torch.allclose(old, new)


def test_a_compiled_plan_is_a_plan() -> None:
    """Other numbers of rows, other tasks: traced again, and right."""
    plan = model_of(layers=1).plan(Parallel("a", "c"))
    compiled = torch.compile(plan, fullgraph=True, backend="eager")

    def check(rows: int = 3, **options: Any) -> None:
        inputs = inputs_of(rows=rows)
        with torch.no_grad():
            found, expected = compiled(**inputs, **options), plan(**inputs, **options)
        assert list(found.keys()) == list(expected.keys())
        for left, right in zip(found, expected, strict=True):
            same(left.logits, right.logits)

    check()
    check(rows=5)
    with torch.compiler.set_stance("fail_on_recompile"):
        check(rows=6)
    check(tasks=["c"])


def test_the_first_call_on_a_thread_of_its_own() -> None:
    """A thread that has run no plan yet, and a plan that nobody has called."""
    plan = model_of(layers=1).plan(Parallel("a", "b"))
    compiled = torch.compile(plan.states, fullgraph=True, backend="eager")
    inputs = inputs_of()
    found: list[Tensor] = []

    def run() -> None:
        with torch.no_grad():
            found.append(states(compiled, inputs))

    for _ in range(2):
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    with torch.no_grad():
        expected = states(plan.states, inputs)
    assert len(found) == 2
    for each in found:
        same(each, expected)


# torch's own module of fusions for older hardware is built with what torch deprecates.
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")
@pytest.mark.skipif(shutil.which("c++") is None and shutil.which("g++") is None, reason="no C++ compiler")
def test_inductor() -> None:
    plan = model_of(layers=1).plan(Parallel("a", "c"))
    with torch.no_grad():
        compiled = torch.compile(plan, fullgraph=True)
        for seed in (0, 1):
            inputs = inputs_of(seed=seed)
            with torch.compiler.set_stance("fail_on_recompile" if seed else "default"):
                found = compiled(**inputs)
            for left, right in zip(found, plan(**inputs), strict=True):
                same(left.logits, right.logits)


def test_methods_at_linear_maps() -> None:
    """They read the backbone's weights, and what adapters share; merging is seen by what is compiled."""
    model = tiny.model("bert", 1, torch.float32)
    for seed, name in enumerate(("dora", "ia3", "vera", "dvora", "mtl_lora")):
        tiny.randomize(model.add_adapter(name, name), seed, 0.2)
    inputs = inputs_of()
    for expression in (Parallel("dora", Stack("ia3", "vera"), "dvora", None), Stack("mtl_lora", "ia3")):
        plan = model.plan(expression)
        compiled = torch.compile(plan.states, backend="eager", fullgraph=True)
        with torch.no_grad():
            expected = states(plan.states, inputs)
            same(states(compiled, inputs), expected)
            if isinstance(expression, Stack):
                with model.merge("mtl_lora"):
                    same(states(compiled, inputs), expected)
                same(states(compiled, inputs), expected)
