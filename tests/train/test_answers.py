"""Data of question answering: answers in every form, held against their text, and as positions of tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from compose.errors import FileError, InputError
from compose.runtime.attach import attach
from compose.train.columns import Columns
from compose.train.data import Dataset, Example
from compose.train.evaluate import evaluate
from compose.train.fit import Settings, fit
from compose.train.head_only import head_only
from compose.train.read import read_examples
from compose.train.rows import row_groups
from tests.heads.texts import LIMIT, bert, tokenizer

COLUMNS = Columns(text="question", pair="context", answers="answers")
TEXT = "at noon, not at night"
NIGHT = (16, 21, "night")


def write(path: Path, *answers: Any) -> Path:
    lines = (json.dumps({"question": "when?", "context": TEXT, "answers": each}) for each in answers)
    path.write_text("\n".join(lines), "utf-8")
    return path


def test_every_form(tmp_path: Path) -> None:
    forms = [
        {"text": ["night", "noon"], "answer_start": [16, 3]},
        [{"text": "night", "answer_start": 16}, {"start": 3, "end": 7}],
        [{"start": 16, "text": "night"}, {"start": 3, "end": 7, "text": "noon"}],
        ["night", "noon"],
    ]
    examples = read_examples(write(tmp_path / "a.jsonl", *forms, [], {"text": [], "answer_start": []}), COLUMNS)
    assert examples[:4] == (Example(("when?", TEXT), (NIGHT, (3, 7, "noon"))),) * 4
    assert [example.target for example in examples[4:]] == [(), ()]
    assert Dataset("qa", COLUMNS.target, examples).labels() == []


@pytest.mark.parametrize(
    ("answers", "what"),
    [
        ([{"text": "noon", "answer_start": 4}], "'noon' does not stand at 4.*there stands 'oon,'.*it stands at 3"),
        ([{"text": "noon", "start": 3, "end": 6}], "'noon' does not stand at 3"),
        (["dawn"], "'dawn' does not stand in the text"),
        ([{"start": 3, "end": 99}], "goes from 3 to 99, but its text from 0 to 21"),
        ([{"text": "", "answer_start": 3}], "goes from 3 to 3"),
        ([{"text": "noon"}], "a text and an answer_start, or a start and an end"),
        ([{"answer_start": 3}], "a text and an answer_start"),
        ([3], "3 is no answer"),
        ("noon", "must be a list"),
        ({"text": ["noon"]}, "two lists of one length"),
        ({"text": ["noon"], "answer_start": []}, "two lists of one length"),
    ],
)
def test_mistakes_are_told_with_file_and_line(tmp_path: Path, answers: Any, what: str) -> None:
    with pytest.raises(FileError, match=rf"(?s)a\.jsonl:2: .*{what}"):
        read_examples(write(tmp_path / "a.jsonl", ["noon"], answers), COLUMNS)


QUESTIONS = [
    Example(("where?", "in new york"), ((3, 11, "new york"),)),
    Example(("who?", "abc in york"), ((0, 3, "abc"),)),
    Example(("when?", "i love it, at ten"), ((14, 17, "ten"), (11, 17, "at ten"))),
    Example(("why?", "i love it"), ()),
]


def model(**options: Any) -> Any:
    made = attach(bert(), tokenizer())
    torch.manual_seed(0)
    made.add_adapter("qa", "seq_bn", reduction_factor=2)
    made.add_head("qa", "question_answering", **options)
    return made


def test_an_answer_is_its_tokens() -> None:
    made = model()
    (group,) = row_groups(made, {"qa": QUESTIONS})
    for row, example in zip(group.rows, QUESTIONS, strict=True):
        start, end = row["labels"]["qa"]
        said = made.tokenizer.decode(row["input_ids"][start : end + 1]) if end else ""
        right = example.target[0][2] if example.target else ""
        assert said.replace("##", "").replace(" ", "") == right.replace(" ", "")
    assert group.cut == 0 and group.rows[3]["labels"]["qa"] == [0, 0]


def test_windows_without_the_answer_point_at_the_first_token() -> None:
    made = model()
    text = "ab cd ef gh ij kl mn op qr st"
    example = Example(("a?", text), ((text.index("ij"), text.index("ij") + 5, "ij kl"),))
    (cut,) = row_groups(made, {"qa": [example]})
    assert cut.cut == 1 and len(cut.rows) == 1 and len(cut.rows[0]["input_ids"]) == LIMIT
    (group,) = row_groups(made, {"qa": [example]}, stride=6)
    assert group.cut == 0 and len(group.rows) == 2
    for row in group.rows:
        start, end = row["labels"]["qa"]
        said = made.tokenizer.decode(row["input_ids"][start : end + 1]) if end else None
        whole = made.tokenizer.decode(row["input_ids"])
        assert (said == "ij kl") == ("ij kl" in whole), whole
        assert said is not None or [start, end] == [0, 0]
    assert any(row["labels"]["qa"] == [0, 0] for row in group.rows)
    with pytest.raises(InputError, match="a smaller stride"):
        row_groups(made, {"qa": [example]}, stride=LIMIT)


def test_words_tags_in_windows() -> None:
    """Other tasks are learned in windows too."""
    made = model()
    made.add_head("tags", "tagging", labels=["O", "B-x", "I-x"])
    made.add_head("lm", "causal_lm")
    words = ["ab", "cd", "ef", "gh", "ij", "kl", "mn", "op", "qr", "st", "uv", "wx"]
    tags = tuple("B-x" if word in ("ab", "wx") else "O" for word in words)
    (group,) = row_groups(made, {"tags": [Example(words, tags)]}, stride=4)
    assert [row["labels"]["tags"].count("B-x") for row in group.rows] == [1, 1]
    (group,) = row_groups(made, {"lm": [Example(" ".join(words), None)]}, stride=4)
    assert all(row["labels"]["lm"] == row["input_ids"] for row in group.rows)


def test_four_questions_are_learned_and_scored() -> None:
    made = model(unanswerable=True)
    plan = made.plan("qa")
    made.train_only(plan.expression, regime="full")
    settings = Settings(epochs=40, learning_rate=5e-3, batch_size=4)
    fit(made, plan, row_groups(made, {"qa": QUESTIONS}), settings)
    assert evaluate(plan, {"qa": QUESTIONS}) == {"qa": {"f1": 1.0, "exact_match": 1.0}}
    assert plan.predict([("why?", "i love it")])[0]["qa"]["answer"] == ""
    long = ("where?", "abc in york " * 3 + "in new york")
    assert set(evaluate(plan, {"qa": [Example(long, ((39, 47, "new york"),))]}, stride=8)["qa"]) == {
        "f1",
        "exact_match",
    }
    answered = head_only(made, made.heads["qa"].config, QUESTIONS[:2], QUESTIONS, 0)
    assert answered.kind == "answer" and answered.gold[2] == ["ten", "at ten"]


def test_parts_of_a_step_have_the_gradients_of_the_whole() -> None:
    """Although rows of other lengths stand beside each."""
    found = []
    for size, accumulation in ((4, 1), (1, 4)):
        made = model(dropout=0.0)
        for module in (made.backbone, made.heads, made.adapters):
            module.double()
        for module in made.backbone.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        plan = made.plan("qa")
        made.train_only(plan.expression)
        settings = Settings(epochs=2, batch_size=size, gradient_accumulation=accumulation, learning_rate=1e-3, warmup=0)
        history = fit(made, plan, row_groups(made, {"qa": QUESTIONS}), settings)
        found.append((history.losses, made.heads["qa"].out.weight.detach()))
    torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=1e-8)
