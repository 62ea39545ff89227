"""Metrics against values worked out by hand."""

from __future__ import annotations

import math
from typing import Any, get_args

import pytest

from compose.recipes.schema import MetricName
from compose.train.metrics import MAIN, METRICS, Kind, details, entity_types, normalised, score


def test_every_kind_has_its_metrics_and_recipes_know_them_all() -> None:
    assert set(get_args(MetricName)) == {name for table in METRICS.values() for name in table}
    assert set(METRICS) == set(get_args(Kind))
    assert MAIN == {
        "single": "accuracy",
        "multi_label": "f1_micro",
        "regression": "pearson",
        "tagging": "f1",
        "tokens": "accuracy",
        "answer": "f1",
    }


GOLD, SAID = ["a", "a", "b", "c"], ["a", "b", "b", "b"]
ENTITIES: list[Any] = [[(0, 1, "x"), (2, 3, "y")], []]
FOUND: list[Any] = [[(0, 1, "x"), (2, 3, "x")], [(0, 1, "x")]]
BY_HAND: list[tuple[Kind, list[Any], list[Any], dict[str, float]]] = [
    # F1: a 2/3 (precision 1, recall 1/2), b 1/2 (precision 1/3, recall 1), c 0. Matthews by its formula for several
    # classes: (2·4 - (2·1 + 1·3)) / sqrt((16 - (1 + 9)) · (16 - (4 + 1 + 1)))
    (
        "single",
        GOLD,
        SAID,
        {
            "accuracy": 0.5,
            "f1_micro": 0.5,
            "f1_macro": (2 / 3 + 1 / 2 + 0) / 3,
            "matthews": 3 / math.sqrt(6 * 10),
        },
    ),
    # Two classes: TP 3, TN 2, FP 1, FN 2.
    (
        "single",
        ["yes"] * 5 + ["no"] * 3,
        ["yes", "yes", "yes", "no", "no", "yes", "no", "no"],
        {"matthews": (3 * 2 - 1 * 2) / math.sqrt(4 * 5 * 3 * 4), "f1_macro": (2 * 3 / 9 + 2 * 2 / 7) / 2},
    ),
    ("single", ["a", "b"], ["a", "a"], {"matthews": 0.0}),
    # Of b alone: precision 1/3, recall 1. A label that nobody says and that is never right has 0.
    ("single", GOLD, SAID, {"f1:b": 0.5, "precision:b": 1 / 3, "recall:b": 1.0, "f1:a": 2 / 3, "f1:x": 0.0}),
    (
        "multi_label",
        [("a",), ("a", "b"), ()],
        [("a",), ("b",), ()],
        {"f1_micro": 0.8, "f1_macro": (2 / 3 + 1) / 2, "exact_match": 2 / 3},
    ),
    (
        "regression",
        [1.0, 2.0, 3.0],
        [2.0, 4.0, 6.0],
        {"pearson": 1.0, "spearman": 1.0, "mean_squared_error": 14 / 3},
    ),
    # Ranks 1, 2, 3, 4 against 1, 2.5, 2.5, 4: covariance 4.5, variances 5 and 4.5.
    ("regression", [1.0, 2.0, 3.0, 4.0], [1.0, 5.0, 5.0, 100.0], {"spearman": 4.5 / math.sqrt(5 * 4.5)}),
    ("regression", [1.0, 2.0], [5.0, 5.0], {"pearson": 0.0, "spearman": 0.0}),
    # One of three found is right, of two that there are; x: 1 of 3 found, 1 of 1; y: none.
    (
        "tagging",
        ENTITIES,
        FOUND,
        {"precision": 1 / 3, "recall": 1 / 2, "f1": 0.4, "f1_macro": 0.25},
    ),
    ("tagging", [[]], [[]], {"precision": 0.0, "recall": 0.0, "f1": 0.0, "f1_macro": 0.0}),
    # Words in common: eiffel tower (2 of 2 and 2 of 4); nothing; the empty answer to what has none.
    (
        "answer",
        [["Tour Eiffel", "the Eiffel Tower"], ["1889"], []],
        ["Eiffel Tower in Paris", "later", ""],
        {"f1": (2 / 3 + 0 + 1) / 3, "exact_match": 1 / 3},
    ),
    ("answer", [["The tower."], [""]], ["tower", "the tower"], {"f1": 0.5, "exact_match": 0.5}),
]


@pytest.mark.parametrize(("kind", "gold", "said", "wanted"), BY_HAND, ids=[f"{row[0]}" for row in BY_HAND])
def test_scores_against_counts_by_hand(kind: Kind, gold: list[Any], said: list[Any], wanted: dict[str, float]) -> None:
    assert score(kind, gold, said, list(wanted)) == pytest.approx(wanted)
    assert list(score(kind, gold, said)) == list(METRICS[kind])


def test_entities_by_type() -> None:
    found = entity_types(ENTITIES, FOUND)
    assert found["x"] == pytest.approx({"precision": 1 / 3, "recall": 1.0, "f1": 0.5, "support": 1})
    assert found["y"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 1}
    assert details("tagging", ENTITIES, FOUND) == {"types": found}


def test_sets_of_one_label_or_none() -> None:
    rows, none = [("a",), (), ()], [(), (), ()]
    assert score("multi_label", rows, none) == {"f1_micro": 0.0, "f1_macro": 0.0, "exact_match": 2 / 3}
    assert score("multi_label", rows, rows) == {"f1_micro": 1.0, "f1_macro": 1.0, "exact_match": 1.0}
    assert score("multi_label", none, none) == {"f1_micro": 0.0, "f1_macro": 0.0, "exact_match": 1.0}


@pytest.mark.filterwarnings("error")
def test_one_label_alone_is_no_reason_to_warn() -> None:
    assert details("single", ["a"] * 3, ["a"] * 3) == {"confusion": {"labels": ["a"], "counts": [[3]]}}
    assert score("single", ["a"] * 3, ["a"] * 3)["matthews"] == 0.0


def test_confusions_have_a_row_for_what_is_right() -> None:
    assert details("single", GOLD, SAID) == {
        "confusion": {"labels": ["a", "b", "c"], "counts": [[1, 1, 0], [0, 1, 0], [0, 1, 0]]}
    }
    assert details("regression", [1.0], [2.0]) == {}


def test_answers_are_compared_as_squad_does() -> None:
    assert normalised("The  U.S. of A.") == "us of"
    assert normalised("An apple, a pear!") == "apple pear"
