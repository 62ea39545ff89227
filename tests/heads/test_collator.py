"""Batches with labels by task."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from compose.errors import InputError
from compose.train.collator import TaskCollator
from tests.heads.texts import Model, tokenizer


@pytest.fixture(scope="module")
def heads() -> Any:
    return Model(
        topic=("classification", {"labels": ["a", "b", "c"]}),
        many=("multi_label", {"labels": ["d", "e", "f"]}),
        score=("regression", {}),
        tags=("tagging", {"labels": ["O", "B-x"]}),
    ).heads


def row(length: int, **more: Any) -> dict[str, Any]:
    return {"input_ids": [5] * length, "attention_mask": [1] * length, **more}


def test_pads_text_and_keeps_the_rest() -> None:
    batch = TaskCollator(tokenizer())([row(2, label=1, route="a", weight=0.5), row(3, label=0, route="b", weight=1)])
    assert batch["input_ids"].tolist() == [[5, 5, 0], [5, 5, 5]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert batch["labels"].tolist() == [1, 0] and batch["labels"].dtype == torch.long
    assert batch["route"] == ["a", "b"] and batch["weight"].tolist() == [0.5, 1]
    assert TaskCollator(tokenizer(), pad_to_multiple_of=8)([row(2)])["input_ids"].shape == (1, 8)
    assert "labels" not in TaskCollator(tokenizer())([row(2)])


def test_labels_without_heads() -> None:
    collate = TaskCollator(tokenizer())
    batch = collate(
        [
            row(2, labels={"one": 1, "tags": [0, 1], "score": 0.5, "none": None}),
            row(3, labels={"tags": np.array([1, 0, 1]), "many": torch.tensor([1.0, 0.0])}),
        ]
    )
    labels = batch["labels"]
    assert list(labels) == ["one", "tags", "score", "many"]
    assert labels["one"].tolist() == [1, -100]
    assert labels["tags"].tolist() == [[0, 1, -100], [1, 0, 1]]
    assert labels["score"][0] == 0.5 and labels["score"][1].isnan()
    assert labels["many"][0].isnan().all() and labels["many"][1].tolist() == [1, 0]
    only = collate([row(3, labels=[0, 1, 1]), row(1, labels=[1])])["labels"]
    assert only.tolist() == [[0, 1, 1], [1, -100, -100]]


def test_labels_with_heads(heads: Any) -> None:
    batch = TaskCollator(tokenizer(), heads)(
        [
            row(3, labels={"topic": "b", "many": [1, 0, 0]}),
            row(2, labels={"tags": ["O", "B-x"], "topic": None}),
        ]
    )
    labels = batch["labels"]
    assert labels["topic"].tolist() == [1, -100]
    assert labels["many"].dtype == torch.float and labels["many"][0].tolist() == [1, 0, 0]
    assert labels["score"].isnan().all() and labels["score"].shape == (2,)
    assert labels["tags"].tolist() == [[-100] * 3, [0, 1, -100]]


def test_every_batch_has_every_task(heads: Any) -> None:
    labels = TaskCollator(tokenizer(), heads)([row(2, labels={})])["labels"]
    assert labels["topic"].tolist() == [-100] and labels["tags"].tolist() == [[-100, -100]]
    assert labels["many"].shape == (1, 3) and labels["score"].shape == (1,)
    some = TaskCollator(tokenizer(), heads, tasks=["topic"])
    assert list(some([row(2, labels={})])["labels"]) == ["topic"]
    with pytest.raises(InputError, match="legal: 'topic'"):
        TaskCollator(tokenizer(), heads, tasks=["topics"])


def test_a_single_tasks_labels_may_be_plain(heads: Any) -> None:
    collate = TaskCollator(tokenizer(), heads, tasks=["topic"])
    assert collate([row(1, label="c"), row(1, label="a")])["labels"].tolist() == [2, 0]


def test_labels_reach_the_loss() -> None:
    model = Model(topic=("classification", {"labels": ["a", "b"]}), tags=("tagging", {"labels": ["O", "B-x"]}))
    collate = TaskCollator(model.tokenizer, model.heads)
    out = model(**collate([row(2, labels={"topic": "a"}), row(3, labels={"topic": "b"})]))
    assert out["tags"].loss == 0 and out.loss == out["topic"].loss > 0


def test_left_padding() -> None:
    left = tokenizer(padding_side="left")
    batch = TaskCollator(left)([row(2, labels=[0, 1]), row(3, labels=[1, 1, 1])])
    assert batch["labels"][0].tolist() == [-100, 0, 1] and batch["attention_mask"][0].tolist() == [0, 1, 1]


def test_no_padding_token() -> None:
    bare = tokenizer(pad_token=None)
    batch = TaskCollator(bare)([row(2, labels=[0, 1]), row(3, labels=[1, 1, 1])])
    assert batch["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert batch["labels"][0].tolist() == [0, 1, -100]


def test_images() -> None:
    batch = TaskCollator()(
        [
            {"pixel_values": torch.zeros(3, 4, 4), "labels": 1},
            {"pixel_values": np.ones((3, 4, 4)), "labels": 0},
        ]
    )
    assert batch["pixel_values"].shape == (2, 3, 4, 4)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no rows"),
        ([row(1), {"input_ids": [1]}], "row 1 has no 'attention_mask'"),
        ([row(1, labels={"a": 1}), row(1, labels=1)], "others a single label"),
        ([row(1, labels={"a": 1}), row(1, labels={"a": [1]})], "some labels are lists"),
        ([row(1, labels={"a": [1.0, 2.0]}), row(1, labels={"a": [1.0]})], r"lists of \[1, 2\] labels"),
        ([row(1, labels={"a": "x"})], "no numbers"),
        ([row(1, labels={"tags": ["O", "O"]})], "2 labels for 1 tokens"),
        ([row(1, labels={"topic": "d"})], "no label 'd'"),
        ([row(1, x=[1]), row(1, x=[1, 2])], "'x' do not fit"),
    ],
)
def test_rows_that_do_not_fit(heads: Any, rows: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        TaskCollator(tokenizer(), heads)(rows)


def test_text_without_a_tokenizer() -> None:
    with pytest.raises(InputError, match="need a tokenizer"):
        TaskCollator()([row(1)])
