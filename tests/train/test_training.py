"""Plain PyTorch loops and the Hugging Face Trainer train plans, and leave frozen weights as they were."""

from __future__ import annotations

import random
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor
from transformers import EvalPrediction, Trainer, TrainingArguments

from compose import TaskCollator
from compose.dsl import Drop, Expression, Fuse, Parallel, Stack
from compose.runtime.model import Model
from compose.runtime.regimes import Regime
from tests import tiny
from tests.heads.texts import tokenizer

ROWS, STEPS = 24, 40
LABELS = {"first": ["even", "odd"], "second": 3, "fused": 2}
BOTH = Parallel(first="a", second=Stack("b", "lora"))


def model_of() -> Model:
    torch.manual_seed(0)
    model = tiny.model("bert", 2, torch.float32)
    model.tokenizer = tokenizer()
    for name in ("a", "b"):
        model.add_adapter(name, "double_seq_bn", reduction_factor=2)
    model.add_adapter("lora", "lora")
    model.add_fusion(Fuse("a", "b"))
    for name, labels in LABELS.items():
        model.add_head(name, labels=labels)
    return model


def rows_of(tasks: tuple[str, ...] = ("first", "second"), missing: bool = False) -> list[dict[str, Any]]:
    """Rows whose labels depend on their first two tokens; with `missing` every third lacks one of them."""
    draw = random.Random(0)
    rows = []
    for index in range(ROWS):
        ids = [draw.randrange(4, tiny.VOCABULARY) for _ in range(4 + index % 4)]
        labels = {"first": ["even", "odd"][ids[0] % 2], "second": ids[1] % 3, "fused": ids[0] % 2}
        lacking = {0: "first", 1: "second"}.get(index % 6) if missing else None
        kept = {task: labels[task] for task in tasks if task != lacking}
        rows.append({"input_ids": ids, "attention_mask": [1] * len(ids), "labels": kept})
    return rows


def batch_of(model: Model, rows: list[dict[str, Any]], tasks: tuple[str, ...]) -> dict[str, Any]:
    return TaskCollator(model.tokenizer, model.heads, tasks=tasks)(rows)


def bytes_of(model: Model) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in torch.nn.Module.state_dict(model).items()}


def frozen_as_before(model: Model, before: dict[str, Tensor]) -> None:
    """Every frozen weight and buffer is the same bit for bit; most trained ones are not."""
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    now = torch.nn.Module.state_dict(model)
    assert now.keys() == before.keys()
    changed = {name for name in now if not torch.equal(now[name], before[name])}
    assert not changed - trained
    assert len(changed) > 0.8 * len(trained)


# a loop of one's own


def loop(model: Model, expression: Expression, batches: list[dict[str, Any]], rate: float = 0.01) -> list[float]:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)
    plan, losses = model.plan(expression), []
    model.train()
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = plan(**batches[step % len(batches)]).loss
        assert loss is not None
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    model.eval()
    return losses


CASES: tuple[tuple[Expression, str, tuple[str, ...], float], ...] = (
    (Parallel(first="a"), "adapters", ("first",), 0.25),
    (BOTH, "adapters", ("first", "second"), 0.5),
    (Parallel(fused=Fuse("a", "b")), "fusion", ("fused",), 0.6),
    (BOTH, "heads", ("first", "second"), 0.7),
    (Parallel(first=Drop("a", first=1)), "last_layers", ("first",), 0.1),
    (BOTH, "full+adapters", ("first", "second"), 0.1),
)


@pytest.mark.parametrize(("expression", "regime", "tasks", "bound"), CASES, ids=lambda value: str(value)[:40])
def test_a_plain_loop(expression: Expression, regime: Any, tasks: tuple[str, ...], bound: float) -> None:
    model = model_of()
    model.train_only(expression, regime)
    before = bytes_of(model)
    losses = loop(model, expression, [batch_of(model, rows_of(tasks), tasks)])
    assert losses[-1] < bound * losses[0]
    frozen_as_before(model, before)


def test_labels_that_are_missing() -> None:
    """Of some rows, and of a task in some batches: the other tasks learn all the same."""
    model = model_of()
    model.train_only(BOTH)
    some = batch_of(model, rows_of(missing=True), ("first", "second"))
    assert (some["labels"]["first"] == -100).any() and (some["labels"]["second"] == -100).any()
    first = batch_of(model, rows_of(("first",)), ("first",))
    before = bytes_of(model)
    losses = loop(model, BOTH, [some, first])
    assert losses[-2] < 0.7 * losses[0] and losses[-1] < 0.7 * losses[1]
    frozen_as_before(model, before)


def test_a_task_without_labels_gets_no_gradient() -> None:
    model = model_of()
    model.train_only(BOTH)
    model.plan(BOTH)(**batch_of(model, rows_of(("first",)), ("first",))).loss.backward()
    assert all(p.grad is not None for p in model.adapters["a"].parameters())
    assert all(p.grad is None or not p.grad.any() for p in model.adapters["b"].parameters())
    assert all(p.grad is None for p in model.heads["second"].parameters())


def test_labels_that_are_all_missing_move_nothing() -> None:
    model = model_of()
    model.train_only(BOTH)
    batch = batch_of(model, rows_of(), ("first", "second"))
    batch["labels"] = {task: torch.full_like(labels, -100) for task, labels in batch["labels"].items()}
    loss = model.plan(BOTH)(**batch).loss
    assert loss.isfinite()
    loss.backward()
    assert all(p.grad is None or (p.grad == 0).all() for p in model.parameters())


def test_random_drops_are_drawn_at_each_step() -> None:
    model = model_of()
    expression = Parallel(first=Drop("a", first=(0, 2)))
    model.train_only(expression)
    model.train()
    batch = batch_of(model, rows_of(("first",)), ("first",))
    losses = {float(model.plan(expression)(**batch).loss.detach()) for _ in range(20)}
    fixed = {float(model.plan(Parallel(first=Drop("a", first=n)))(**batch).loss.detach()) for n in range(3)}
    assert len(fixed) == 3 and losses == fixed
    model.eval()
    assert model.plan(expression)(**batch).loss == model.plan(Parallel(first="a"))(**batch).loss


# the Trainer, with its defaults


def trainer_of(model: Model, folder: Path, regime: Regime = "adapters", **options: Any) -> Trainer:
    model.activate(BOTH)
    model.train_only(BOTH, regime)
    arguments = TrainingArguments(
        output_dir=str(folder), use_cpu=True, disable_tqdm=True, logging_strategy="no", **options
    )
    rows = rows_of()
    return Trainer(
        model,
        arguments,
        data_collator=TaskCollator(model.tokenizer, model.heads, tasks=("first", "second")),
        train_dataset=rows,
        eval_dataset=rows,
        compute_metrics=accuracy,
    )


def accuracy(result: EvalPrediction) -> dict[str, float]:
    """Of each task: predictions come in the order of the plan's outputs."""
    tasks = zip(("first", "second"), result.predictions, strict=True)
    return {task: float(np.mean(output["logits"].argmax(-1) == result.label_ids[task])) for task, output in tasks}


# Its default asks for pinned memory, and torch says so where there is no accelerator to pin it for.
@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true but no accelerator is found:UserWarning")
def test_the_trainer_with_its_defaults(tmp_path: Path) -> None:
    """Three epochs, a checkpoint at the end, and nothing but the folder given."""
    model = model_of()
    model.activate(BOTH)
    model.train_only(BOTH)
    before = bytes_of(model)
    collate = TaskCollator(model.tokenizer, model.heads, tasks=("first", "second"))
    trainer = Trainer(model, TrainingArguments(str(tmp_path)), data_collator=collate, train_dataset=rows_of())
    assert trainer.train().training_loss > 0
    frozen_as_before(model, before)
    assert (tmp_path / "checkpoint-9" / "model.safetensors").exists()


def test_the_trainer_learns_and_evaluates(tmp_path: Path) -> None:
    model = model_of()
    trainer = trainer_of(model, tmp_path, max_steps=STEPS, learning_rate=0.01, save_strategy="no")
    before, untrained = bytes_of(model), trainer.evaluate()
    trainer.train()
    found = trainer.evaluate()
    assert found["eval_loss"] < 0.5 * untrained["eval_loss"]
    assert found["eval_first"] > 0.8 and found["eval_second"] > 0.8
    frozen_as_before(model, before)
    predictions = trainer.predict(rows_of())
    assert [output["logits"].shape for output in predictions.predictions] == [(ROWS, 2), (ROWS, 3)]
    with torch.no_grad():
        out = model(**batch_of(model, rows_of(), ("first", "second")))
    np.testing.assert_allclose(predictions.predictions[0]["logits"], out["first"].logits, rtol=1e-4, atol=1e-5)


def test_checkpoints_hold_what_is_trained_and_resume(tmp_path: Path) -> None:
    options: dict[str, Any] = {"max_steps": 6, "save_steps": 3, "learning_rate": 0.01}
    whole = model_of()
    frozen = bytes_of(whole)
    trainer_of(whole, tmp_path / "whole", **options).train()
    saved = safetensors.torch.load_file(tmp_path / "whole" / "checkpoint-3" / "model.safetensors")
    assert not [name for name in saved if name.startswith("backbone")]
    held = (whole.adapters, whole.fusions, whole.heads)
    assert len(saved) == sum(1 for modules in held for _ in modules.parameters())

    resumed = model_of()
    for module in (resumed.adapters["a"], resumed.heads["first"]):  # not where the checkpoint begins
        tiny.randomize(module)
    trainer_of(resumed, tmp_path / "resumed", **options).train(str(tmp_path / "whole" / "checkpoint-3"))
    for (name, left), (_, right) in zip(whole.named_parameters(), resumed.named_parameters(), strict=True):
        assert torch.equal(left, right), name
    frozen_as_before(whole, frozen)


def test_checkpoints_hold_what_of_the_backbone_is_trained(tmp_path: Path) -> None:
    model = model_of()
    trainer_of(model, tmp_path, "last_layers", max_steps=2, learning_rate=0.01).train()
    saved = safetensors.torch.load_file(tmp_path / "checkpoint-2" / "model.safetensors")
    held = {name for name in saved if name.startswith("backbone")}
    assert held and all(name.startswith("backbone.encoder.layer.1.") for name in held)
    twin = model_of()
    twin.train_only(BOTH, "last_layers")
    twin.load_state_dict(saved)
    batch = batch_of(model, rows_of(), ("first", "second"))
    assert torch.equal(twin.plan(BOTH)(**batch)["first"].logits, model.plan(BOTH)(**batch)["first"].logits)
    with pytest.raises(RuntimeError, match="backbone"):  # where they are frozen they would be lost
        twin.load_state_dict({name: saved[name] for name in saved if name not in held})


def test_the_best_model_is_loaded_at_the_end(tmp_path: Path) -> None:
    model = model_of()
    trainer = trainer_of(
        model,
        tmp_path,
        max_steps=12,
        learning_rate=0.01,
        eval_strategy="steps",
        eval_steps=2,
        save_steps=2,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=True,  # so that the best is not the last
    )
    before = bytes_of(model)
    trainer.train()
    evaluated = [(entry["eval_loss"], entry["step"]) for entry in trainer.state.log_history if "eval_loss" in entry]
    best, step = max(evaluated)
    assert step < 12 and trainer.state.best_model_checkpoint == str(tmp_path / f"checkpoint-{step}")
    assert trainer.evaluate()["eval_loss"] == pytest.approx(best, rel=1e-5)
    frozen_as_before(model, before)


@pytest.mark.parametrize("reentrant", [None, False, True], ids=["default", "plain", "reentrant"])
def test_gradient_checkpointing_changes_nothing(tmp_path: Path, reentrant: bool | None) -> None:
    options: dict[str, Any] = {"max_steps": 3, "learning_rate": 0.01, "save_strategy": "no"}
    plain, checkpointed = model_of(), model_of()
    trainer_of(plain, tmp_path, **options).train()
    known = {field.name for field in fields(TrainingArguments)}  # older versions have the older name alone
    name = "activation_checkpointing" if "activation_checkpointing" in known else "gradient_checkpointing"
    options |= {name: True} if reentrant is None else {name: True, f"{name}_kwargs": {"use_reentrant": reentrant}}
    before = bytes_of(checkpointed)
    trainer = trainer_of(checkpointed, tmp_path, **options)
    trainer.train()
    assert any(getattr(module, "gradient_checkpointing", False) for module in checkpointed.backbone.modules())
    frozen_as_before(checkpointed, before)
    for (name, left), (_, right) in zip(plain.named_parameters(), checkpointed.named_parameters(), strict=True):
        torch.testing.assert_close(left, right, msg=name)
    checkpointed.detach()
