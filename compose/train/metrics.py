"""Scores of predictions, by the kind of task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from compose.train.data import Span
from compose.train.extras import require

Kind = Literal["single", "multi_label", "regression", "tagging"]

MAIN: Mapping[Kind, str] = {
    "single": "accuracy",
    "multi_label": "f1_micro",
    "regression": "pearson",
    "tagging": "f1",
}
"""The score that tables and means are made of."""


def score(kind: Kind, gold: Sequence[Any], predicted: Sequence[Any]) -> dict[str, float]:
    """The scores of a task's predictions.

    Args:
        kind: `single` (a label each), `multi_label` (labels each), `regression` (a number each) or
            `tagging` (entities each, as `Span`s).
        gold: what is right.
        predicted: what was answered, in the same order.
    """
    scorers: dict[Kind, Callable[[Any, Any], dict[str, float]]] = {
        "single": label_scores,
        "multi_label": multi_label_scores,
        "regression": number_scores,
        "tagging": entity_scores,
    }
    return scorers[kind](gold, predicted)


def label_scores(gold: Sequence[str], predicted: Sequence[str]) -> dict[str, float]:
    """Accuracy, and F1 averaged over the labels."""
    metrics = require("sklearn.metrics")
    return {
        "accuracy": float(metrics.accuracy_score(gold, predicted)),
        "f1_macro": float(metrics.f1_score(gold, predicted, average="macro", zero_division=0.0)),
    }


def multi_label_scores(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> dict[str, float]:
    """F1 over all labels together, and averaged over the labels."""
    metrics = require("sklearn.metrics")
    names = sorted({name for row in (*gold, *predicted) for name in row})
    one_hot = [[[int(name in row) for name in names] for row in rows] for rows in (gold, predicted)]
    return {
        "f1_micro": float(metrics.f1_score(*one_hot, average="micro", zero_division=0.0)),
        "f1_macro": float(metrics.f1_score(*one_hot, average="macro", zero_division=0.0)),
    }


def number_scores(gold: Sequence[float], predicted: Sequence[float]) -> dict[str, float]:
    """Pearson's correlation (0 where one side is constant), and the mean squared error."""
    count = len(gold)
    means = sum(gold) / count, sum(predicted) / count
    pairs = [(a - means[0], b - means[1]) for a, b in zip(gold, predicted, strict=True)]
    spread = (sum(a * a for a, _ in pairs) * sum(b * b for _, b in pairs)) ** 0.5
    error = sum((a - b) ** 2 for a, b in zip(gold, predicted, strict=True)) / count
    return {
        "pearson": sum(a * b for a, b in pairs) / spread if spread else 0.0,
        "mean_squared_error": error,
    }


def entity_scores(gold: Sequence[Sequence[Span]], predicted: Sequence[Sequence[Span]]) -> dict[str, float]:
    """Precision, recall and F1 of entities; one is right if start, end and type all are.

    >>> entity_scores([[(0, 4, "person"), (9, 11, "date")]], [[(0, 4, "person"), (9, 12, "date")]])["f1"]
    0.5
    """
    pairs = list(zip(gold, predicted, strict=True))
    right = sum(len(set(a) & set(b)) for a, b in pairs)
    wanted, found = sum(len(set(a)) for a, _ in pairs), sum(len(set(b)) for _, b in pairs)
    precision, recall = right / found if found else 0.0, right / wanted if wanted else 0.0
    total = precision + recall
    return {
        "f1": 2 * precision * recall / total if total else 0.0,
        "precision": precision,
        "recall": recall,
    }
