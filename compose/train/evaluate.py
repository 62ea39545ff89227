"""What a plan scores on labelled examples, through the same `predict` that users call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from compose.heads.spans import Word, entities
from compose.train.data import Example, Span
from compose.train.metrics import Kind, score

if TYPE_CHECKING:
    from compose.heads.head import Head
    from compose.runtime.runnable import RunnablePlan

Scores = dict[str, float]


def kind_of(head: Head) -> Kind:
    """How a head's answers are scored."""
    return "tagging" if head.per_token else getattr(head.config, "problem", "single")


def evaluate(
    plan: RunnablePlan,
    examples: Mapping[str, Sequence[Example]],
    batch_size: int | None = None,
    batch_tokens: int | None = None,
) -> dict[str, Scores]:
    """The scores of each task; tasks over the same inputs are answered in one pass.

    Args:
        plan: what to run; each task of `examples` is one of its.
        examples: by task.
        batch_size: the most rows at a time.
        batch_tokens: the most tokens at a time; where neither is given, as in `plan.predict`.
    """
    answers: dict[str, list[Any]] = {}
    groups: dict[Any, list[str]] = {}
    for task, members in examples.items():
        groups.setdefault(tuple(repr(example.input) for example in members), []).append(task)
    for tasks in groups.values():
        inputs = [example.input for example in examples[tasks[0]]]
        found = plan.predict(inputs, tasks=tasks, truncate=True, batch_size=batch_size, batch_tokens=batch_tokens)
        for task in tasks:
            answers[task] = [answer[task] for answer in found]
    heads = plan.model.heads
    return {task: score_task(heads[task], examples[task], answers[task]) for task in examples}


def score_task(head: Head, examples: Sequence[Example], answers: Sequence[Mapping[str, Any]]) -> Scores:
    """The scores of one task's answers, as `predict` gives them."""
    kind = kind_of(head)
    gold = [gold_of(kind, example) for example in examples]
    return score(kind, gold, [_answer(kind, answer) for answer in answers])


def gold_of(kind: Kind, example: Example) -> Any:
    """What is right, in the form that scores compare: for tagging spans, of words where these were given."""
    if kind == "regression":
        return float(example.target)
    if kind == "tagging" and isinstance(example.input, list):
        return spans_of_tags(example.target)
    return example.target


def spans_of_tags(tags: Sequence[str | None]) -> tuple[Span, ...]:
    """The entities in the tags of words, their ends counted in words.

    >>> spans_of_tags(["B-city", "I-city", "O"])
    ((0, 2, 'city'),)
    """
    words = [Word(0, place, place + 1) for place in range(len(tags))]
    found = entities(tags, [1.0] * len(tags), words, [" " * len(tags)])
    return tuple((entity["start"], entity["end"], entity["type"]) for entity in found)


def _answer(kind: Kind, answer: Mapping[str, Any]) -> Any:
    if kind == "tagging":
        if "tags" in answer:
            return spans_of_tags(answer["tags"])
        return tuple((found["start"], found["end"], found["type"]) for found in answer["entities"])
    return answer["value"] if kind == "regression" else answer["labels" if kind == "multi_label" else "label"]
