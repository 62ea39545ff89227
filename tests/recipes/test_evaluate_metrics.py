"""The recipe key `evaluate.metrics`: what is measured of a task, and which metric is its main one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compose.errors import RecipeError
from compose.recipes.console import Console
from compose.recipes.runner import run
from tests.recipes.made import write_experiment
from tests.recipes.small import SMALL, error_of, read


def with_metrics(metrics: str) -> str:
    return SMALL.replace("  drop_curve:", f"  metrics: {metrics}\n  drop_curve:")


def test_one_name_or_several() -> None:
    recipe = read(with_metrics("{topic: matthews, entities: [f1_macro, recall]}"))
    assert recipe.evaluate.metrics == {"topic": ("matthews",), "entities": ("f1_macro", "recall")}
    assert read(SMALL, "evaluate.metrics.topic=[f1_micro]").evaluate.metrics == {"topic": ("f1_micro",)}


@pytest.mark.parametrize(
    ("metrics", "where", "what"),
    [
        ("{topic: acuracy}", "r.yaml:19:20", "must be one of the legal values, not 'acuracy'"),
        ("{topic: [accuracy, pearson]}", "r.yaml:19:31", "'pearson' cannot be measured of the classification head"),
        ("{entities: accuracy}", "r.yaml:19:23", "legal: 'f1_macro', 'recall', 'precision', 'f1'"),
        ("{topics: accuracy}", "r.yaml:19:13", "no evaluated expression has a task 'topics'"),
        ("{entities: 'f1:city'}", "r.yaml:19:23", "'f1:city' cannot be measured of the tagging head"),
        ("{topic: ['f1:']}", "r.yaml:19:21", "must be one of the legal values, not 'f1:'"),
        ("{topic: 'acuracy:x'}", "r.yaml:19:20", "must be one of the legal values, not 'acuracy:x'"),
        ("{topic: []}", "r.yaml:19:20", "must not be empty"),
        ("accuracy", "r.yaml:19:12", "must be a mapping"),
    ],
)
def test_mistakes_are_told_with_their_place(metrics: str, where: str, what: str) -> None:
    found = error_of(with_metrics(metrics))
    assert what in found and where in found


def test_metrics_of_one_label() -> None:
    assert read(with_metrics("{topic: [f1:delivery, accuracy]}")).evaluate.metrics == {
        "topic": ("f1:delivery", "accuracy")
    }
    found = error_of(with_metrics("{topic: [accuracy, f1:deliveries]}"), "heads.topic.labels=[delivery, returns]")
    assert "r.yaml:19:31" in found and "task 'topic' has no label 'deliveries'" in found


def test_an_error_cannot_be_the_main_metric() -> None:
    text = SMALL.replace("kind: classification", "kind: regression")
    found = error_of(text, "evaluate.metrics.topic=mean_squared_error")
    assert "mean_squared_error cannot come first" in found and "'pearson', 'spearman'" in found


def test_what_is_chosen_is_measured_and_makes_the_mean(tmp_path: Path) -> None:
    recipe = write_experiment(tmp_path)
    with pytest.raises(RecipeError, match="task 'letter' has no label 'third'"):
        run(recipe, ["evaluate.metrics.letter=f1:third"], out=tmp_path / "no", console=Console(quiet=True))
    overrides = [
        "evaluate.metrics.letter=[f1_macro, matthews, f1:second]",
        "evaluate.baselines=[tfidf]",
        "report.plots=false",
    ]
    done = run(recipe, overrides, out=tmp_path / "run", console=Console(quiet=True))
    metrics = json.loads((done / "metrics.json").read_text())
    assert metrics["main"] == {"letter": "f1_macro", "town": "f1"}
    for system in ("composed", "TF-IDF"):
        scores = metrics["scores"][system]
        assert list(scores["letter"]) == ["f1_macro", "matthews", "f1:second"]
        assert set(scores["town"]) == {"f1", "precision", "recall", "f1_macro"}
        assert metrics["means"][system] == pytest.approx((scores["letter"]["f1_macro"] + scores["town"]["f1"]) / 2)
        confusion = metrics["details"][system]["letter"]["confusion"]
        assert confusion["labels"] == ["first", "second"]
        assert sum(map(sum, confusion["counts"])) == 28
        assert metrics["details"][system]["town"]["types"]["town"]["support"] == 16
    assert all(
        list(point["scores"]["letter"]) == ["f1_macro", "matthews", "f1:second"] for point in metrics["drop_curve"]
    )
