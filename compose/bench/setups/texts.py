"""Real texts, from tokenising to answers."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch

from compose.bench.loop import Work
from compose.bench.setups.models import LABELS, REDUCTION, Told, our_model, tokenizer
from compose.bench.texts import bundled
from compose.dsl import Parallel
from compose.runtime.agreement import agreement
from compose.runtime.attach import load, load_plan
from compose.runtime.model import Model
from compose.runtime.runnable import RunnablePlan
from compose.train.data import Example
from compose.train.fit import Settings, fit
from compose.train.rows import row_groups

TASKS = ("topic", "tone", "urgency")
"""What the bundled messages are labelled with."""

LEARNING_RATE = 1e-3


def ours(told: Told, attention: str) -> Work:
    """Three tasks at once over all texts; in batches as they come where `as_they_come` is told."""
    model = _backbone(told, attention)
    for task in TASKS:
        model.add_adapter(task, "seq_bn", reduction_factor=REDUCTION)
        model.add_head(task, "classification", labels=LABELS, pooling="first")
    plan, texts, rows = model.plan(Parallel(*TASKS)), _texts(told), told["rows"]

    def sorted_by_length() -> None:
        plan.predict(texts, truncate=True)

    def as_they_come() -> None:
        for start in range(0, len(texts), rows):
            plan.predict(texts[start : start + rows], batch_size=rows, truncate=True)

    return Work(as_they_come if told["as_they_come"] else sorted_by_length, {"texts": len(texts)})


def trained(told: Told, attention: str) -> Work:
    """Three tasks that were trained on the bundled messages, in float32 or bf16.

    In bf16 it is told too for which share of the answers the label is another one than in float32.
    """
    plan, texts = _train(_backbone(told, attention, "float32"), told), _texts(told)
    facts: dict[str, object] = {"texts": len(texts)}
    if told["precision"] != "float32":
        with tempfile.TemporaryDirectory() as folder:
            plan.save(Path(folder) / "plan")
            model = _backbone(told, attention, told["precision"])
            other = load_plan(Path(folder) / "plan", model)
        model.eval()
        share = agreement(other, plan, texts, truncate=True).share
        assert share is not None  # all its tasks have labels
        facts["disagreement"] = 1 - share
        plan = other

    def call() -> None:
        plan.predict(texts, truncate=True)

    return Work(call, facts)


def _backbone(told: Told, attention: str, precision: str | None = None) -> Model:
    """MiniLM with its own weights, or the tiny backbone."""
    torch.manual_seed(0)
    if told["size"] == "tiny":
        tiny = told if precision is None else {**told, "precision": precision}
        return our_model(tiny, attention, tokenizer(told))
    model = load(told["backbone"], attn_implementation=attention, precision=precision)
    return model.to(told["device"]).eval()


def _train(model: Model, told: Told) -> RunnablePlan:
    """A plan of three tasks, trained on the bundled messages."""
    messages = bundled("train")[: told["messages"]]
    for task in TASKS:
        model.add_adapter(task, "seq_bn", reduction_factor=REDUCTION)
        model.add_head(task, "classification", labels=sorted({message[task] for message in messages}), pooling="first")
    expression = Parallel(*TASKS)
    model.train_only(expression)
    plan = model.plan(expression)
    examples = {task: [Example(message["text"], message[task]) for message in messages] for task in TASKS}
    fit(model, plan, row_groups(model, examples), Settings(epochs=told["epochs"], learning_rate=LEARNING_RATE))
    return plan


def _texts(told: Told) -> list[str]:
    texts: list[str] = json.loads(Path(told["texts"]).read_text("utf-8"))
    return texts
