"""What happens before a forward pass: compiling, choosing a plan, loading and registering adapters."""

from __future__ import annotations

import gc
import random
import shutil
import tempfile
import time
import weakref

import torch

from compose.bench.loop import Work, resident
from compose.bench.setups.models import REDUCTION, Told, add_heads, batch_of, our_model
from compose.compile import compile_plan
from compose.dsl import Block, Fuse, Parallel
from compose.runtime.model import Model

CHOICES = 1000
"""How often a cached plan is chosen for one figure."""


def compiling(told: Told, attention: str) -> Work:
    """Compiling an expression over some adapters, whose order is another one each time."""
    model = our_model(told, attention)
    names = _register(model, told["adapters"])
    if told["block"] == "Fuse":
        model.add_fusion(Fuse(*names, name="fused"))
    order = random.Random(0)

    def call() -> list[float]:
        order.shuffle(names)
        block: Block = Fuse(*names, name="fused") if told["block"] == "Fuse" else Parallel(*names)
        start = time.perf_counter()
        compile_plan(block, model.vocabulary)
        return [time.perf_counter() - start]

    return Work(call, counted=_nothing)


def choosing(told: Told, attention: str) -> Work:
    """Choosing a plan that was compiled before."""
    model = our_model(told, attention)
    block = Parallel(*_register(model, told["adapters"]))
    model.plan(block)

    def call() -> list[float]:
        start = time.perf_counter()
        for _ in range(CHOICES):
            model.plan(block)
        return [(time.perf_counter() - start) / CHOICES]

    return Work(call, counted=_nothing)


def loading(told: Told, attention: str) -> Work:
    """Loading an adapter from a file."""
    model = our_model(told, attention)
    _register(model, 1)
    folder = tempfile.mkdtemp()
    model.save_adapter("a0", folder)

    def call() -> list[float]:
        start = time.perf_counter()
        model.load_adapter(folder, "loaded")
        taken = time.perf_counter() - start
        model.delete_adapter("loaded")
        return [taken]

    weakref.finalize(call, shutil.rmtree, folder)
    return Work(call, {"bytes": _bytes(model)}, counted=_nothing)


def registered(told: Told, attention: str) -> Work:
    """A forward pass of one adapter where many are registered; and what these take, beside their own bytes."""
    model = our_model(told, attention)
    gc.collect()
    before = resident()
    names = _register(model, told["adapters"])
    gc.collect()
    own = _bytes(model)
    facts = {"bytes": own, "memory of adapters": (resident() - before) / own}
    add_heads(model, names[:1])
    plan, batch = model.plan(names[0]), batch_of(told)

    def call() -> None:
        with torch.no_grad():
            plan(**batch)

    return Work(call, facts)


def _register(model: Model, count: int) -> list[str]:
    names = [f"a{index}" for index in range(count)]
    for name in names:
        model.add_adapter(name, "seq_bn", reduction_factor=REDUCTION)
    return names


def _bytes(model: Model) -> int:
    """Of all adapters' weights."""
    return sum(parameter.nbytes for parameter in model.adapters.parameters())


def _nothing() -> None:
    """What no FLOPs are counted of."""
