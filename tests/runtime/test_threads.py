"""A plan belongs to a call: threads, checkpointing, and a control that the test can fail."""

from __future__ import annotations

import copy
import random
import threading
from typing import Any

import torch

from compose.dsl import Average, Drop, Fuse, Parallel, Stack
from tests import tiny

THREADS, CALLS = 16, 600
EXPRESSIONS = (
    "a",
    "b",
    None,
    Stack("a", "b"),
    Parallel("a", "b"),
    Parallel("b", Drop("a", first=1), None),
    Fuse("a", "b"),
    Average("a", "b"),
    Parallel(Stack("c", "a"), "c"),
)


def model_of(architecture: str = "bert") -> Any:
    model = tiny.model(architecture)
    for seed, (name, preset) in enumerate((("a", "seq_bn"), ("b", "par_bn"), ("c", "lora"))):
        tiny.randomize(model.add_adapter(name, preset, **({} if preset == "lora" else {"bottleneck_size": 4})), seed)
    tiny.randomize(model.add_fusion(Fuse("a", "b")), 4)
    return model


def in_threads(run: Any, count: int = THREADS) -> list[BaseException]:
    """Runs `run(number)` in threads; returns what they raised."""
    raised: list[BaseException] = []

    def guarded(number: int) -> None:
        try:
            run(number)
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=guarded, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


def test_copies_disturb_no_call() -> None:
    model = model_of()
    inputs = tiny.inputs(padded=True)
    plan = model.plan(Parallel("a", "b", Fuse("a", "b")))
    with torch.no_grad():
        expected = plan.states(**inputs).last_hidden_state
    calling, calls = threading.Event(), 0

    def run(number: int) -> None:
        nonlocal calls
        if number == 0:
            calling.wait(60)
            try:
                for _ in range(20):
                    assert copy.deepcopy(model).hooks.installed
            finally:
                calling.clear()
            return
        with torch.no_grad():
            while calling.is_set() or not calls:
                assert torch.equal(plan.states(**inputs).last_hidden_state, expected)
                calls += 1
                if calls == 1:
                    calling.set()

    assert in_threads(run, 2) == []
    assert calls > 1


def test_no_wrong_rows_in_threads() -> None:
    model = model_of()
    inputs = tiny.inputs(padded=True)
    with torch.no_grad():
        expected = [model.plan(e).states(**inputs).last_hidden_state for e in EXPRESSIONS]
    wrong: list[int] = []

    def run(number: int) -> None:
        draw = random.Random(number)
        for call in range(CALLS // THREADS + 1):
            if call % 9 == 8:
                name = f"extra{number}"
                model.add_adapter(name, "seq_bn", bottleneck_size=2)
                model.delete_adapter(name)
            index = draw.randrange(len(EXPRESSIONS))
            with torch.no_grad():
                found = model.plan(EXPRESSIONS[index]).states(**inputs).last_hidden_state
            if found.shape != expected[index].shape or not torch.allclose(found, expected[index], atol=1e-9):
                wrong.append(index)

    assert in_threads(run) == []
    assert wrong == []


def test_a_global_plan_would_be_seen() -> None:
    """The control: with one plan for all threads the same check finds wrong rows."""
    model = model_of()
    inputs = tiny.inputs()
    with torch.no_grad():
        expected = {e: model.plan(e).states(**inputs).last_hidden_state for e in ("a", "b")}
    wrong: list[str] = []
    active = {"expression": "a"}
    barrier = threading.Barrier(2)

    def run(number: int) -> None:
        mine = "ab"[number]
        for _ in range(50):
            active["expression"] = mine
            barrier.wait()
            with torch.no_grad():
                found = model.plan(active["expression"]).states(**inputs).last_hidden_state
            if not torch.allclose(found, expected[mine], atol=1e-9):
                wrong.append(mine)
            barrier.wait()

    assert in_threads(run, 2) == []
    assert wrong


def test_checkpointing_and_backward_in_threads() -> None:
    """Two live plans, gradient checkpointing, and backward on threads of their own, all at once."""
    model = model_of()
    model.train()
    inputs = tiny.inputs(padded=True)
    model.requires_grad_(False)
    parameters = {name: list(model.adapters[name].parameters()) for name in "abc"}
    for group in parameters.values():
        for parameter in group:
            parameter.requires_grad_(True)
    every = [p for group in parameters.values() for p in group]
    chosen = (Parallel("a", "b"), Stack("a", "b"), Parallel(Stack("c", "a"), "c"))

    def gradient(expression: Any) -> list[Any]:
        loss = model.plan(expression).states(**inputs).last_hidden_state.pow(2).sum()
        found: list[Any] = []

        def run() -> None:
            found.extend(torch.autograd.grad(loss, every, allow_unused=True))

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        return found

    expected = [gradient(expression) for expression in chosen]
    model.gradient_checkpointing_enable({"use_reentrant": False})
    wrong: list[int] = []

    def work(number: int) -> None:
        for call in range(6):
            index = (number + call) % len(chosen)
            for found, right in zip(gradient(chosen[index]), expected[index], strict=True):
                if (found is None) != (right is None) or (found is not None and not torch.allclose(found, right)):
                    wrong.append(index)

    assert in_threads(work, 8) == []
    assert wrong == []
