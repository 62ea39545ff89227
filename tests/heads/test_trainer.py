"""The Hugging Face Trainer, with its defaults, trains and evaluates a model that returns MultiHeadOutput."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import EvalPrediction, Trainer, TrainingArguments

from compose.heads.output import TaskOutput
from compose.train.collator import TaskCollator
from tests.heads.texts import Model

ROWS = 11  # not a multiple of the batch size


def rows(tasks: dict[str, Any]) -> list[dict[str, Any]]:
    generator = np.random.default_rng(0)
    made = []
    for index in range(ROWS):
        length = 3 + index % 4
        ids = generator.integers(4, 30, length).tolist()
        labels = {name: make(ids) for name, make in tasks.items()}
        made.append({"input_ids": ids, "attention_mask": [1] * length, "labels": labels})
    return made


TASKS = {
    "topic": lambda ids: ["a", "b"][ids[0] % 2],
    "tags": lambda ids: [int(token > 15) for token in ids],
    "score": lambda ids: ids[0] / 30 if ids[0] > 6 else None,
}


@pytest.fixture
def model() -> Model:
    return Model(
        topic=("classification", {"labels": ["a", "b"]}),
        tags=("tagging", {"labels": ["O", "B-x"]}),
        score=("regression", {}),
    )


def trainer(model: Model, data: Any, folder: Path, **options: Any) -> Trainer:
    arguments = TrainingArguments(output_dir=str(folder), use_cpu=True, disable_tqdm=True, **options)
    collate = TaskCollator(model.tokenizer, model.heads)
    return Trainer(model, arguments, data_collator=collate, train_dataset=data, eval_dataset=data)


def test_trains_and_evaluates(model: Model, tmp_path: Path) -> None:
    seen: dict[str, Any] = {}

    def metrics(result: EvalPrediction) -> dict[str, float]:
        seen["predictions"], seen["labels"] = result.predictions, result.label_ids
        logits = dict(zip(model.heads, result.predictions, strict=True))
        return {"accuracy": float((logits["topic"]["logits"].argmax(-1) == result.label_ids["topic"]).mean())}

    run = trainer(
        model,
        rows(TASKS),
        tmp_path,
        num_train_epochs=2,
        eval_strategy="epoch",
        save_strategy="no",
        learning_rate=1e-3,
    )
    run.compute_metrics = metrics
    before = run.evaluate()
    result = run.train()
    after = run.evaluate()
    assert result.training_loss > 0 and after["eval_loss"] < before["eval_loss"]
    assert 0 <= after["eval_accuracy"] <= 1
    topic, tags, score = seen["predictions"]
    assert isinstance(topic, TaskOutput) and topic["logits"].shape == (ROWS, 2)
    assert tags["logits"].shape == (ROWS, 6, 2) and score["logits"].shape == (ROWS, 1)
    assert seen["labels"]["tags"].shape == (ROWS, 6) and np.isnan(seen["labels"]["score"]).any()


def test_one_task(tmp_path: Path) -> None:
    model = Model(topic=("classification", {"labels": ["a", "b"]}))
    run = trainer(model, rows({"topic": TASKS["topic"]}), tmp_path, max_steps=2, save_strategy="no")
    run.train()
    output = run.predict(rows({"topic": TASKS["topic"]}))
    assert output.predictions["logits"].shape == (ROWS, 2) and output.metrics["test_loss"] > 0


def test_mixed_precision(model: Model, tmp_path: Path) -> None:
    run = trainer(model, rows(TASKS), tmp_path, max_steps=2, save_strategy="no", bf16=True)
    weight = model.heads["topic"].out.weight.detach().clone()  # type: ignore[union-attr]
    assert run.train().training_loss > 0
    assert not torch.equal(model.heads["topic"].out.weight, weight)  # type: ignore[union-attr]


def test_without_labels(model: Model, tmp_path: Path) -> None:
    data = [{key: value for key, value in row.items() if key != "labels"} for row in rows(TASKS)]
    output = trainer(model, data, tmp_path).predict(data)
    assert len(output.predictions) == 3 and output.label_ids is None
