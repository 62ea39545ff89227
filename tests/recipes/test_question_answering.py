"""Question answering in recipes: SQuAD's columns, windows of long texts, exact match and F1."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from compose.errors import RecipeError
from compose.recipes.console import Console
from compose.recipes.runner import run
from compose.recipes.tables import told
from compose.recipes.validate import read_recipe
from tests.heads.texts import bert, tokenizer

RECIPE = """\
recipe: 1
name: asked
description: Questions about a text.
seed: 3
backbone: {name: BACKBONE}
data:
  qa: {kind: jsonl, train: rows.jsonl, test: rows.jsonl, text: question, pair: context, answers: answers}
adapters:
  qa: {method: seq_bn, reduction_factor: 2}
heads:
  qa: {kind: question_answering, unanswerable: true}
train:
  - {expression: qa, regime: full+adapters, epochs: 40, learning_rate: 5e-3, batch_size: 8}
evaluate:
  expressions: {answers: qa}
  metrics: {qa: [exact_match, f1]}
"""
CONTEXTS = {
    "where?": ("in new york", "new york"),
    "who?": ("abc in york", "abc"),
    "when?": ("i love it, at ten", "ten"),
    "why?": ("i love it", ""),
}
LONG = "where?", "i love it, at ten, abc in york, in new york", "new york"


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("backbone")
    bert().save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def row(question: str, context: str, answer: str) -> dict[str, Any]:
    texts = [answer] if answer else []
    return {
        "question": question,
        "context": context,
        "answers": {"text": texts, "answer_start": [context.rindex(text) for text in texts]},
    }


def write(folder: Path, backbone: Path, *rows: dict[str, Any]) -> Path:
    every = [row(question, *rest) for question, rest in CONTEXTS.items()] + list(rows)
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, every)), "utf-8")
    path = folder / "asked.yaml"
    path.write_text(RECIPE.replace("BACKBONE", str(backbone)), "utf-8")
    return path


def test_a_recipe_learns_and_scores_answers(tmp_path: Path, backbone: Path) -> None:
    said = io.StringIO()
    done = run(write(tmp_path, backbone), ["report.plots=false"], out=tmp_path / "run", console=Console(said))
    metrics = json.loads((done / "metrics.json").read_text())
    assert metrics["scores"] == {"answers": {"qa": {"exact_match": 1.0, "f1": 1.0}}}
    assert metrics["main"] == {"qa": "exact_match"} and metrics["cut"] == []
    assert "qa (exact_match)" in said.getvalue() and "100.0" in said.getvalue()
    report = (done / "report.md").read_text()
    assert "exact_match" in report and "f1" in report and "100.0" in report


def test_long_texts_are_cut_or_read_in_windows(tmp_path: Path, backbone: Path) -> None:
    path = write(tmp_path, backbone, row(*LONG))
    quick = ["train.0.epochs=1", "report.plots=false", "data.qa.validation=0.2", "evaluate.baselines=[head_only]"]
    done = run(path, quick, out=tmp_path / "cut", console=Console(io.StringIO()))
    cut = json.loads((done / "metrics.json").read_text())["cut"]
    assert [(row["where"], row["texts"]) for row in cut][-1] == ("test part", 1)
    said = io.StringIO()
    strided = ["train.0.stride=8", "evaluate.stride=8", *quick, "data.qa.validation=null", "evaluate.baselines=[]"]
    done = run(path, strided, out=tmp_path / "windows", console=Console(said))
    metrics = json.loads((done / "metrics.json").read_text())
    assert metrics["cut"] == [] and metrics["stages"][0]["examples"] == {"qa": 5}
    windows = next(line for line in said.getvalue().splitlines() if line.startswith("windows: qa "))
    assert int(windows.split()[-1]) > 5
    for key in ("train.0.stride", "evaluate.stride"):
        with pytest.raises(RecipeError, match=rf"(?s){key}=30.*a smaller stride"):
            run(path, [*quick, f"{key}=30"], out=tmp_path / "no", console=Console(io.StringIO()))


@pytest.mark.parametrize(
    ("overrides", "what"),
    [
        (["data.qa.pair=null"], "data.qa: answers stand in a second text, and no pair is named"),
        (["data.qa.kind=csv"], "data.qa: a cell of a table as text holds no answers"),
        (["data.qa.label_map=[a]"], "label_map has no meaning where there are no labels"),
        (["data.qa.answers=answer"], "data.qa: there is no column 'answer'"),
        (["data.qa.label=question"], "it has label and answers"),
        (["heads.qa.unanswerable=null"], "unanswerable=None is not legal"),
        (["heads.qa.unanswerable=false"], "questions without an answer, but the head 'qa' always answers"),
        (["heads.qa.labels=2"], "no option is called 'labels'"),
        (["heads.qa={kind: tagging}"], "the tagging head 'qa' learns from entities or tags, but data.qa has answers"),
        (["data.qa.answers=null", "data.qa.label=question"], "head 'qa' learns from answers, but data.qa has label"),
        (["evaluate.metrics.qa=accuracy"], "'accuracy' cannot be measured of the question_answering head 'qa'"),
        (["evaluate.baselines=[tfidf]"], "there is no baseline 'tfidf' for the question_answering head 'qa'"),
        (["evaluate.stride=-1"], "evaluate.stride"),
    ],
)
def test_what_does_not_fit_is_said(tmp_path: Path, backbone: Path, overrides: list[str], what: str) -> None:
    path = write(tmp_path, backbone)
    read_recipe(path)
    with pytest.raises(RecipeError) as caught:
        read_recipe(path, overrides)
    assert what in str(caught.value)


def test_an_answer_that_does_not_stand_there(tmp_path: Path, backbone: Path) -> None:
    wrong = {**row(*LONG), "answers": {"text": ["new york"], "answer_start": [3]}}
    with pytest.raises(RecipeError, match=r"(?s)'new york' does not stand at 3.*rows\.jsonl:5"):
        read_recipe(write(tmp_path, backbone, wrong))


def test_answers_in_words() -> None:
    found = {"answer": "noon", "start": 3, "end": 7, "score": 2.0, "probability": 0.5}
    assert told(found) == "noon (50.0)"
    assert told({**found, "answer": "", "start": None, "end": None}) == "no answer (50.0)"
