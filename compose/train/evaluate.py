"""What a plan scores on labelled examples, through the same `predict` that users call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compose.heads.spans import Word, entities
from compose.runtime.rows import route_names
from compose.train.data import Example, Span
from compose.train.metrics import Kind, details, kind_of_config, score
from compose.train.tokens import answer_tokens

if TYPE_CHECKING:
    from compose.heads.head import Head
    from compose.runtime.runnable import RunnablePlan

Scores = dict[str, float]

ANSWER_KEYS: Mapping[Kind, str] = {
    "single": "label",
    "multi_label": "labels",
    "regression": "value",
    "answer": "answer",
}
"""Under which key of a prediction the answer stands that is scored."""


@dataclass(frozen=True)
class Answered:
    """What is right of a task's examples, and what was answered.

    Args:
        kind: of the task.
        gold: what is right.
        predicted: what was answered, in the same order.
    """

    kind: Kind
    gold: Sequence[Any]
    predicted: Sequence[Any]

    def scores(self, metrics: Sequence[str] | None = None) -> Scores:
        """By metric: those named, by default all of the kind."""
        return score(self.kind, self.gold, self.predicted, metrics)

    def details(self) -> dict[str, Any]:
        """What stands behind the scores; see `compose.train.metrics.details`."""
        return details(self.kind, self.gold, self.predicted)


def kind_of(head: Head) -> Kind:
    """How a head's answers are scored."""
    return kind_of_config(head.config) or ("tagging" if head.per_token else "single")


def evaluate(
    plan: RunnablePlan,
    examples: Mapping[str, Sequence[Example]],
    batch_size: int | None = None,
    batch_tokens: int | None = None,
    metrics: Mapping[str, Sequence[str]] | None = None,
    stride: int | None = None,
) -> dict[str, Scores]:
    """The scores of each task; tasks over the same inputs are answered in one pass.

    Args:
        plan: what to run; each task of `examples` is one of its.
        examples: by task.
        batch_size: the most rows at a time.
        batch_tokens: the most tokens at a time; where neither is given, as in `plan.predict`.
        metrics: of some tasks, what to measure; all that their kind has where nothing is said.
        stride: reads what is too long in windows that overlap by so many tokens; else it is cut.
    """
    answered = answer(plan, examples, batch_size, batch_tokens, stride)
    return {task: found.scores((metrics or {}).get(task)) for task, found in answered.items()}


def answer(
    plan: RunnablePlan,
    examples: Mapping[str, Sequence[Example]],
    batch_size: int | None = None,
    batch_tokens: int | None = None,
    stride: int | None = None,
) -> dict[str, Answered]:
    """What a plan answers to the examples of each task; as `evaluate`, before anything is scored."""
    answers: dict[str, list[Any]] = {}
    groups: dict[Any, list[str]] = {}
    heads = plan.model.heads
    limits = {"batch_size": batch_size, "batch_tokens": batch_tokens}
    of_tokens = {
        task: answer_tokens(plan, task, rows, **limits, stride=stride)
        for task, rows in examples.items()
        if _tokens(heads[task])
    }
    whole = [task for task in examples if task not in of_tokens]
    for task in whole:
        groups.setdefault(tuple(repr(example.input) for example in examples[task]), []).append(task)
    options: dict[str, Any] = {**limits, "truncate": stride is None, "stride": stride}
    routed = route_names(plan.plan)
    for tasks in [[task] for task in whole] if routed else groups.values():
        inputs = [example.input for example in examples[tasks[0]]]
        route = tasks * len(inputs) if routed else None
        found = plan.predict(inputs, tasks=tasks, route=route, **options)
        for task in tasks:
            answers[task] = [each[task] for each in found]
    return {
        task: Answered("tokens", *of_tokens[task])
        if task in of_tokens
        else answered(heads[task], examples[task], answers[task])
        for task in examples
    }


def _tokens(head: Head) -> bool:
    return kind_of(head) == "tokens"


def answered(head: Head, examples: Sequence[Example], answers: Sequence[Mapping[str, Any]]) -> Answered:
    """One task's answers, as `predict` gives them, beside what is right."""
    kind = kind_of(head)
    return Answered(kind, [gold_of(kind, example) for example in examples], [_answer(kind, each) for each in answers])


def gold_of(kind: Kind, example: Example) -> Any:
    """What is right, in the form that scores compare.

    For tagging spans, of words where these were given; for answers out of a text all that are right.
    """
    if kind == "regression":
        return float(example.target)
    if kind == "answer":
        return [text for _, _, text in example.target]
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
    return answer[ANSWER_KEYS[kind]]
