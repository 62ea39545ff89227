"""Epochs of the training loop, with and without the trunk cache."""

from __future__ import annotations

import time
from typing import Any

import torch

from compose.bench.loop import Work
from compose.bench.setups.models import LABELS, PADDING, Told, batch_of, expression_of, our_model, tokenizer
from compose.runtime.model import Model
from compose.train.fit import Settings, fit
from compose.train.rows import RowGroup
from compose.train.trunk_cache import TrunkCache

STEPS = 2
"""Steps of an epoch."""

MEMORY = 1 << 33
"""Bytes that the cache may keep in memory."""


def ours(told: Told, attention: str) -> Work:
    """A training of two epochs over some batches; each call gives the seconds of a step in the second.

    The first call fills the cache. What a training takes to begin is the first epoch's.
    """
    model = our_model(told, attention, tokenizer(told))
    expression: Any = "task"
    if told["setup"] == "aggregation":
        model.add_adapter("task", "layer_aggregation")
        model.add_head("task", "tagging", labels=LABELS)
    else:
        expression = expression_of(model, told)
    trained = model.train_only(expression)
    plan = model.plan(expression)
    group = _rows(model, told, str(plan.tasks[0]))
    cache = TrunkCache(memory=MEMORY) if told["cached"] else None
    settings = Settings(epochs=2, batch_size=told["rows"])
    facts: dict[str, Any] = {"trained": trained.count, "epochs": [], "trunk": plan.trunk}

    def call() -> list[float]:
        ends = [time.perf_counter()]
        fit(model, plan, [group], settings, lambda *_: ends.append(time.perf_counter()), cache)
        first, second = ends[STEPS] - ends[0], ends[-1] - ends[STEPS]
        facts["epochs"] += [second] if facts["epochs"] else [first, second]
        return [second / STEPS]

    def step() -> None:
        batch = batch_of(told)
        labels = torch.tensor([row["labels"][group.tasks[0]] for row in group.rows[: told["rows"]]])
        model.train()
        trunk = None if cache is None else cache.states(plan, batch)
        loss = plan(**batch, labels={group.tasks[0]: labels}, trunk_states=trunk).loss
        assert loss is not None  # there are labels
        loss.backward()

    return Work(call, facts, counted=step)


def _rows(model: Model, told: Told, task: str) -> RowGroup:
    """Random tokens as rows with a label each, or one for each token where the head tags."""
    generator = torch.Generator().manual_seed(0)
    shape = (STEPS * told["rows"], told["tokens"])
    ids = torch.randint(PADDING, told["config"]["vocab_size"], shape, generator=generator)
    wanted = shape if model.heads[task].per_token else shape[:1]
    labels = torch.randint(0, LABELS, wanted, generator=generator)
    rows = [
        {"input_ids": row.tolist(), "attention_mask": [1] * len(row), "labels": {task: label.tolist()}}
        for row, label in zip(ids, labels, strict=True)
    ]
    return RowGroup((task,), tuple(rows))
