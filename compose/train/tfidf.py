"""The baseline without a transformer: counts of words, and logistic regression."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from compose.train.data import Example
from compose.train.evaluate import Answered, gold_of, spans_of_tags
from compose.train.extras import require
from compose.train.metrics import Kind

SEED = 0
STRENGTH = 10.0
"""Inverse of the regularisation; scores hardly depend on it."""
WORD = re.compile(r"\w+|[^\w\s]")


def tfidf(kind: Kind, train: Sequence[Example], test: Sequence[Example]) -> Answered:
    """What logistic regression answers over TF-IDF features of words and pairs of words.

    For pairs of texts the features are how their vectors differ and agree; for tagging, the word, its
    shape, its ends and its neighbours.

    Args:
        kind: of the task.
        train: what it learns from.
        test: what it is scored on.
    """
    # Threads of the linear algebra underneath cost more than they bring on matrices this small.
    with require("threadpoolctl").threadpool_limits(1):
        gold = [gold_of(kind, example) for example in test]
        return Answered(kind, gold, _tag(train, test) if kind == "tagging" else _classify(kind, train, test))


def _classify(kind: Kind, train: Sequence[Example], test: Sequence[Example]) -> list[Any]:
    features, unseen = _features([example.input for example in train], [example.input for example in test])
    targets = [gold_of(kind, example) for example in train]
    if kind == "regression":
        ridge = require("sklearn.linear_model").RidgeCV(alphas=(0.1, 1.0, 10.0)).fit(features, targets)
        return [float(value) for value in ridge.predict(unseen)]
    if kind == "single":
        return list(_regression().fit(features, targets).predict(unseen))
    names = sorted({name for target in targets for name in target})
    columns = {name: [int(name in target) for target in targets] for name in names}
    chosen: list[list[str]] = [[] for _ in test]
    for name, column in columns.items():
        if 0 < sum(column) < len(column):
            for row, says in zip(chosen, _regression().fit(features, column).predict(unseen), strict=True):
                row.extend([name] * int(says))
    return chosen


def _regression() -> Any:
    return require("sklearn.linear_model").LogisticRegression(C=STRENGTH, max_iter=1000, random_state=SEED)


def _features(train: Sequence[Any], test: Sequence[Any]) -> tuple[Any, Any]:
    sparse, text = require("scipy.sparse"), require("sklearn.feature_extraction.text")
    sides = [_sides(given) for given in train], [_sides(given) for given in test]
    vectorizer = text.TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\w+|[^\w\s]")
    vectorizer.fit([side for given in sides[0] for side in given])

    def vectors(rows: Sequence[tuple[str, ...]]) -> Any:
        first = vectorizer.transform([row[0] for row in rows])
        if len(rows[0]) == 1:
            return first
        second = vectorizer.transform([row[1] for row in rows])
        both = first.multiply(second)
        return sparse.hstack([abs(first - second), both, sparse.csr_matrix(both.sum(axis=1))]).tocsr()

    return vectors(sides[0]), vectors(sides[1])


def _sides(given: Any) -> tuple[str, ...]:
    return given if isinstance(given, tuple) else (" ".join(given) if isinstance(given, list) else given,)


def _tag(train: Sequence[Example], test: Sequence[Example]) -> list[Any]:
    """Entities by a tag for each word, each decided for itself."""
    vectorizer = require("sklearn.feature_extraction").DictVectorizer()
    words = [_words(example) for example in train]
    tags = [tag for example, found in zip(train, words, strict=True) for tag in _tags(example, found)]
    features = vectorizer.fit_transform([feature for found in words for feature in _word_features(found)])
    model = _regression().fit(features, tags)
    predicted = []
    for example in test:
        found = _words(example)
        said = list(model.predict(vectorizer.transform(_word_features(found)))) if found else []
        spans = spans_of_tags(said)
        if not isinstance(example.input, list):
            spans = tuple((found[start][1], found[end - 1][2], kind) for start, end, kind in spans)
        predicted.append(spans)
    return predicted


def _words(example: Example) -> list[tuple[str, int, int]]:
    """Words with start and end, in characters, or in words where these were given."""
    if isinstance(example.input, list):
        return [(word, place, place + 1) for place, word in enumerate(example.input)]
    assert isinstance(example.input, str)  # neither pairs nor images have tags
    return [(match[0], match.start(), match.end()) for match in WORD.finditer(example.input)]


def _tags(example: Example, words: Sequence[tuple[str, int, int]]) -> list[str]:
    if isinstance(example.input, list):
        return list(example.target)
    tags = ["O"] * len(words)
    for start, end, kind in example.target:
        inside = [place for place, (_, left, right) in enumerate(words) if left < end and start < right]
        for place in inside:
            tags[place] = f"{'B' if place == inside[0] else 'I'}-{kind}"
    return tags


def _word_features(words: Sequence[tuple[str, int, int]]) -> list[dict[str, Any]]:
    texts = ["<s>", "<s>", *(word for word, _, _ in words), "</s>", "</s>"]
    return [_features_at(texts, place) for place in range(2, len(texts) - 2)]


def _features_at(texts: Sequence[str], place: int) -> dict[str, Any]:
    found: dict[str, Any] = {"bias": 1.0}
    for offset in (-2, -1, 0, 1, 2):
        word = texts[place + offset]
        found[f"{offset}:word={word.lower()}"] = 1.0
        found[f"{offset}:shape={_shape(word)}"] = 1.0
    word = texts[place]
    for length in (2, 3):
        found[f"start={word[:length].lower()}"] = 1.0
        found[f"end={word[-length:].lower()}"] = 1.0
    found[f"around={texts[place - 1].lower()} {texts[place + 1].lower()}"] = 1.0
    return found


def _shape(word: str) -> str:
    """What a word looks like: `Xx` for London, `d-X` for 30077-K.

    >>> _shape("30077"), _shape("London"), _shape("iPhone")
    ('d', 'Xx', 'xXx')
    """
    marks = ["d" if c.isdigit() else "X" if c.isupper() else "x" if c.islower() else c for c in word]
    return "".join(mark for place, mark in enumerate(marks) if place == 0 or mark != marks[place - 1])
