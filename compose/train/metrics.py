"""Scores of predictions, by the kind of task: what each metric is called, what it needs, how it is computed."""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

from compose.errors import ConfigError, Problem
from compose.heads.spec import CausalLMConfig, HeadConfig, MaskedLMConfig, QuestionAnsweringConfig, TaggingConfig
from compose.train.data import Span
from compose.train.extras import require

Kind = Literal["single", "multi_label", "regression", "tagging", "tokens", "answer"]
"""What a task's answers are: a label, labels, a number, entities as `Span`s, tokens, or a text out of a text."""

Metric = Callable[[Sequence[Any], Sequence[Any]], float]
"""A score of what was answered (second) against what is right (first), in the same order."""

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)


def score(
    kind: Kind, gold: Sequence[Any], predicted: Sequence[Any], metrics: Sequence[str] | None = None
) -> dict[str, float]:
    """The scores of a task's predictions.

    Args:
        kind: `single` (a label each), `multi_label` (labels each), `regression` (a number each), `tagging` (entities
            each, as `Span`s), `tokens` (of each text some token ids; answered is of each the likeliest id, and the
            cross entropy of the one that is right) or `answer` (a text each; right are the texts that would be).
        gold: what is right.
        predicted: what was answered, in the same order.
        metrics: names of the kind's `METRICS`, or of labels `f1:LABEL` and the like; all of `METRICS` where nothing is
            said.

    Raises:
        ConfigError: the kind has no such metric.
    """
    return {name: metric_of(kind, name)(gold, predicted) for name in metrics or METRICS[kind]}


def metric_of(kind: Kind, name: str) -> Metric:
    """A metric by its name; `f1:LABEL`, `precision:LABEL` and `recall:LABEL` are of one label alone.

    Raises:
        ConfigError: the kind has no such metric.
    """
    base, _, label = name.partition(":")
    if label and kind == "single" and base in OF_ONE_LABEL:
        return partial(_of_label, base, label)
    if name not in METRICS[kind]:
        hint = f"{OF_ONE_LABEL[0]}:LABEL for one label" if kind == "single" else ""
        what = f"'{name}' cannot be measured of such answers"
        raise ConfigError([Problem(what, got=name, legal=tuple(METRICS[kind]), hint=hint)])
    return METRICS[kind][name]


def _of_label(base: str, label: str, gold: Sequence[str], predicted: Sequence[str]) -> float:
    measured = getattr(require("sklearn.metrics"), f"{base}_score")
    return float(measured(gold, predicted, labels=[label], average="macro", zero_division=0.0))


def accuracy(gold: Sequence[str], predicted: Sequence[str]) -> float:
    """The share that is right."""
    return float(require("sklearn.metrics").accuracy_score(gold, predicted))


def matthews(gold: Sequence[str], predicted: Sequence[str]) -> float:
    """Matthews' correlation of labels: 0 for guessing, whatever the labels' shares, and where there is one only."""
    if len({*gold, *predicted}) < 2:
        return 0.0
    return float(require("sklearn.metrics").matthews_corrcoef(gold, predicted))


def _f1(average: str) -> Metric:
    def of_labels(gold: Sequence[str], predicted: Sequence[str]) -> float:
        return float(require("sklearn.metrics").f1_score(gold, predicted, average=average, zero_division=0.0))

    return of_labels


def _multi_label_f1(average: str) -> Metric:
    def of_sets(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> float:
        names = sorted({name for row in (*gold, *predicted) for name in row})
        if not names:
            return 0.0
        # A column more, not counted: scikit-learn takes a single one for classes that exclude each other.
        one_hot = [[[*(int(name in row) for name in names), 0] for row in rows] for rows in (gold, predicted)]
        counted = list(range(len(names)))
        f1_score = require("sklearn.metrics").f1_score
        return float(f1_score(*one_hot, labels=counted, average=average, zero_division=0.0))

    return of_sets


def same_sets(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> float:
    """The share of rows that have all their labels, and no others."""
    return sum(set(a) == set(b) for a, b in zip(gold, predicted, strict=True)) / len(gold)


def pearson(gold: Sequence[float], predicted: Sequence[float]) -> float:
    """Pearson's correlation; 0 where one side is constant."""
    count = len(gold)
    means = sum(gold) / count, sum(predicted) / count
    pairs = [(a - means[0], b - means[1]) for a, b in zip(gold, predicted, strict=True)]
    spread = (sum(a * a for a, _ in pairs) * sum(b * b for _, b in pairs)) ** 0.5
    return float(sum(a * b for a, b in pairs) / spread) if spread else 0.0


def spearman(gold: Sequence[float], predicted: Sequence[float]) -> float:
    """Spearman's correlation: Pearson's of the ranks, those of equal numbers averaged."""
    ranks = require("scipy.stats").rankdata
    return pearson(ranks(gold).tolist(), ranks(predicted).tolist())


def mean_squared_error(gold: Sequence[float], predicted: Sequence[float]) -> float:
    """The mean of squared differences; the smaller the better."""
    return float(require("sklearn.metrics").mean_squared_error(gold, predicted))


def entity_f1(gold: Sequence[Sequence[Span]], predicted: Sequence[Sequence[Span]]) -> float:
    """F1 of entities; one is right if start, end and type all are.

    >>> entity_f1([[(0, 4, "person"), (9, 11, "date")]], [[(0, 4, "person"), (9, 12, "date")]])
    0.5
    """
    return _entities(gold, predicted)["f1"]


def entity_f1_macro(gold: Sequence[Sequence[Span]], predicted: Sequence[Sequence[Span]]) -> float:
    """F1 of entities of each type, averaged over the types."""
    types = entity_types(gold, predicted)
    return sum(found["f1"] for found in types.values()) / len(types) if types else 0.0


def entity_types(
    gold: Sequence[Sequence[Span]], predicted: Sequence[Sequence[Span]]
) -> dict[str, dict[str, float | int]]:
    """Precision, recall and F1 of the entities of each type, and how many there are (`support`)."""
    found: dict[str, dict[str, float | int]] = {}
    for name in sorted({span[2] for row in (*gold, *predicted) for span in row}):
        of_type = [[[span for span in row if span[2] == name] for row in rows] for rows in (gold, predicted)]
        found[name] = {**_entities(*of_type), "support": sum(len(set(row)) for row in of_type[0])}
    return found


def _entities(gold: Sequence[Sequence[Span]], predicted: Sequence[Sequence[Span]]) -> dict[str, float]:
    pairs = list(zip(gold, predicted, strict=True))
    right = sum(len(set(a) & set(b)) for a, b in pairs)
    wanted, found = sum(len(set(a)) for a, _ in pairs), sum(len(set(b)) for _, b in pairs)
    precision, recall = right / found if found else 0.0, right / wanted if wanted else 0.0
    total = precision + recall
    return {"precision": precision, "recall": recall, "f1": 2 * precision * recall / total if total else 0.0}


def _entity(part: str) -> Metric:
    return lambda gold, predicted: _entities(gold, predicted)[part]


def token_accuracy(gold: Sequence[Sequence[int]], predicted: Sequence[Sequence[tuple[int, float]]]) -> float:
    """The share of tokens of which the likeliest is right, over all texts.

    >>> token_accuracy([[7, 8], [9]], [[(7, 0.1), (5, 2.0)], [(9, 0.2)]])
    0.6666666666666666
    """
    right = sum(a == b for row, said in zip(gold, predicted, strict=True) for a, (b, _) in zip(row, said, strict=True))
    return right / max(1, sum(map(len, gold)))


def token_cross_entropy(gold: Sequence[Sequence[int]], predicted: Sequence[Sequence[tuple[int, float]]]) -> float:
    """The mean over all tokens of minus the logarithm of what the right one was given."""
    each = [entropy for said in predicted for _, entropy in said]
    return sum(each) / max(1, len(each))


def perplexity(gold: Sequence[Sequence[int]], predicted: Sequence[Sequence[tuple[int, float]]]) -> float:
    """e to the cross entropy: of how many equally likely tokens one would have to be guessed."""
    return math.exp(min(token_cross_entropy(gold, predicted), 700.0))  # which is about what a float holds


def normalised(text: str) -> str:
    """An answer as SQuAD compares it: in small letters, without punctuation, articles and extra spaces.

    >>> normalised("The  Eiffel Tower.")
    'eiffel tower'
    """
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def answer_exact(gold: Sequence[Sequence[str]], predicted: Sequence[str]) -> float:
    """The share of answers that are one of those that are right, as SQuAD compares them."""
    return _best(gold, predicted, lambda right, said: float(right == said))


def answer_f1(gold: Sequence[Sequence[str]], predicted: Sequence[str]) -> float:
    """F1 of the words of each answer against the nearest that is right, averaged (SQuAD; Rajpurkar et al., 2016).

    A question without an answer is answered by the empty text, and by nothing else.

    >>> answer_f1([["the Eiffel Tower", "Tour Eiffel"]], ["Eiffel Tower in Paris"])
    0.6666666666666666
    """
    return _best(gold, predicted, _common_words)


def _best(gold: Sequence[Sequence[str]], predicted: Sequence[str], likeness: Callable[[str, str], float]) -> float:
    total = 0.0
    for right, said in zip(gold, predicted, strict=True):
        choices = [text for text in map(normalised, right) if text] or [""]
        total += max(likeness(text, normalised(said)) for text in choices)
    return total / len(predicted)


def _common_words(right: str, said: str) -> float:
    if not right or not said:
        return float(right == said)
    wanted, found = right.split(), said.split()
    common = sum((Counter(wanted) & Counter(found)).values())
    return 2 * common / (len(wanted) + len(found))


OF_ONE_LABEL = ("f1", "precision", "recall")
"""What can be measured of one label, as `f1:LABEL`: F1 as GLUE has it for tasks of two labels."""

METRICS: Mapping[Kind, Mapping[str, Metric]] = {
    "single": {"accuracy": accuracy, "f1_macro": _f1("macro"), "f1_micro": _f1("micro"), "matthews": matthews},
    "multi_label": {
        "f1_micro": _multi_label_f1("micro"),
        "f1_macro": _multi_label_f1("macro"),
        "exact_match": same_sets,
    },
    "regression": {"pearson": pearson, "spearman": spearman, "mean_squared_error": mean_squared_error},
    "tagging": {
        "f1": entity_f1,
        "precision": _entity("precision"),
        "recall": _entity("recall"),
        "f1_macro": entity_f1_macro,
    },
    "tokens": {"accuracy": token_accuracy, "perplexity": perplexity, "cross_entropy": token_cross_entropy},
    "answer": {"f1": answer_f1, "exact_match": answer_exact},
}
"""What can be measured of each kind of task."""

ANSWERS: Mapping[type[HeadConfig], Kind] = {
    TaggingConfig: "tagging",
    QuestionAnsweringConfig: "answer",
    CausalLMConfig: "tokens",
    MaskedLMConfig: "tokens",
}
"""How heads' answers are scored, but for those that have a `problem` of the same name."""


def kind_of_config(config: HeadConfig) -> Kind | None:
    """How the answers of a head are scored; None: they are not."""
    problem: Kind | None = getattr(config, "problem", None)
    return problem or ANSWERS.get(type(config))


MAIN: Mapping[Kind, str] = {kind: next(iter(table)) for kind, table in METRICS.items()}
"""The score that tables and means are made of where a recipe names none: the first of the kind's."""

ERRORS = frozenset({"mean_squared_error", "perplexity", "cross_entropy"})
"""Metrics that are the better the smaller they are, and no shares of 1."""


def details(kind: Kind, gold: Sequence[Any], predicted: Sequence[Any]) -> dict[str, Any]:
    """What stands behind a task's scores.

    Returns:
        Of labels `confusion`: the `labels`, and `counts` with a row for each label that is right and a column for
        each that was answered. Of entities `types`: as `entity_types`. Of others nothing.
    """
    if kind == "single":
        labels = sorted({*gold, *predicted})
        pairs = Counter(zip(gold, predicted, strict=True))
        return {"confusion": {"labels": labels, "counts": [[pairs[a, b] for b in labels] for a in labels]}}
    return {"types": entity_types(gold, predicted)} if kind == "tagging" else {}
