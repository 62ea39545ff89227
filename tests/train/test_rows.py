"""Examples as rows: what of an example's target a head learns from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from compose.errors import InputError
from compose.runtime.attach import attach
from compose.runtime.model import Model
from compose.train.collator import TaskCollator
from compose.train.columns import Columns
from compose.train.data import Example
from compose.train.evaluate import answer
from compose.train.fit import Settings, fit
from compose.train.head_only import head_only
from compose.train.read import read_examples
from compose.train.rows import row_groups
from tests.heads.texts import bert, tokenizer

SEVERAL = [Example("a b", ("x",)), Example("b", ("x", "y")), Example("c d e", ()), Example("d", ("z", "y", "x"))]


def model() -> Model:
    made = attach(bert(), tokenizer())
    torch.manual_seed(0)
    made.add_adapter("a", "seq_bn", reduction_factor=2)
    made.add_head("a", "multi_label", labels=["x", "y", "z"], pooling="mean")
    made.add_head("b", "tagging", labels=["O", "B-x", "I-x"])
    made.add_head("lm", "causal_lm")
    return made


def test_several_labels_are_a_number_for_each() -> None:
    made = model()
    rows = row_groups(made, {"a": SEVERAL})[0].rows
    batch = TaskCollator(made.tokenizer, made.heads, tasks=["a"])(rows)
    assert batch["labels"]["a"].tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 0], [1, 1, 1]]


def test_a_label_that_the_head_lacks_is_an_error() -> None:
    with pytest.raises(InputError, match="there is no label 'w'"):
        row_groups(model(), {"a": [Example("a", ("x", "w"))]})


def test_no_entities_are_tags_and_no_labels_are_none() -> None:
    made = model()
    rows = row_groups(made, {"a": [Example("a b", ())], "b": [Example("a b", ())]})[0].rows
    assert rows[0]["labels"]["a"] == [0, 0, 0]
    assert set(rows[0]["labels"]["b"]) == {"O", -100}


def test_texts_alone_are_their_own_labels() -> None:
    made = model()
    row = row_groups(made, {"lm": [Example("a b", None)]})[0].rows[0]
    assert row["labels"]["lm"] == row["input_ids"]


def test_words_with_one_label(tmp_path: Path) -> None:
    """Of a text that was cut into words before, as hub data sets of tagging are."""
    lines = [{"words": ["new", "york"], "kind": "town", "all": ["x"]}, {"words": ["a", "b"], "kind": "no", "all": []}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)), "utf-8")
    examples = read_examples(tmp_path / "a.jsonl", Columns(tokens="words", label="kind"))
    assert examples == (Example(["new", "york"], "town"), Example(["a", "b"], "no"))
    made = model()
    made.add_head("kind", labels=["town", "no"], pooling="mean")
    several = read_examples(tmp_path / "a.jsonl", Columns(tokens="words", labels="all"))
    (group,) = row_groups(made, {"kind": examples, "a": several})
    assert [row["labels"] for row in group.rows] == [{"kind": "town", "a": [1, 0, 0]}, {"kind": "no", "a": [0, 0, 0]}]
    assert [row["input_ids"] for row in group.rows] == [made.tokenizer(text).input_ids for text in ("new york", "a b")]
    found = answer(made.plan('Parallel(kind="a")'), {"kind": examples})["kind"]
    assert found.gold == ["town", "no"] and set(found.predicted) <= {"town", "no"}


def test_several_labels_are_trained() -> None:
    made = model()
    plan = made.plan("a")
    made.train_only(plan.expression)
    history = fit(made, plan, row_groups(made, {"a": SEVERAL * 4}), Settings(epochs=20, learning_rate=1e-2))
    assert history.losses[-1] < history.losses[0] - 0.1
    head_only(made, made.heads["a"].config, SEVERAL, SEVERAL, 0)
