"""How far two plans give the same answers, and how long each takes: bf16 against float32, compiled against eager."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from compose.errors import InputError
from compose.heads.output import Key

WARM_UP = 2
"""Inputs that each plan answers before it is timed."""


class Predicting(Protocol):
    """What is compared: anything that answers texts."""

    def predict(self, inputs: Sequence[Any], **options: Any) -> list[dict[Any, Any]]: ...


@dataclass(frozen=True)
class TaskAgreement:
    """One task's agreement.

    Args:
        task: its name, or its position.
        inputs: how many inputs were compared.
        same: how many got the same answer: label, set of labels, entities, or next token; None where answers
            are numbers.
        difference: the largest distance between two numbers (probabilities or values) of an input.
    """

    task: Key
    inputs: int
    same: int | None
    difference: float

    @property
    def share(self) -> float | None:
        """The share of inputs with the same answer."""
        return None if self.same is None or not self.inputs else self.same / self.inputs


@dataclass(frozen=True)
class Agreement:
    """The agreement of two plans; prints as a table.

    Args:
        tasks: task by task, those that both plans answer.
        seconds: how long each plan took for all inputs.
    """

    tasks: tuple[TaskAgreement, ...]
    seconds: tuple[float, float]

    @property
    def share(self) -> float | None:
        """The share of answers that are the same, over all tasks with labels; None if there are none."""
        counted = [task for task in self.tasks if task.same is not None and task.inputs]
        total = sum(task.inputs for task in counted)
        return sum(task.same or 0 for task in counted) / total if total else None

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        tasks = [{**asdict(task), "share": task.share} for task in self.tasks]
        return {"tasks": tasks, "share": self.share, "seconds": list(self.seconds)}

    def __str__(self) -> str:
        rows = [("task", "inputs", "same", "largest difference")]
        for task in self.tasks:
            same = "-" if task.share is None else f"{task.share:.2%}"
            rows.append((str(task.task), str(task.inputs), same, f"{task.difference:.4f}"))
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        first, second = self.seconds
        return "\n".join([*lines, f"{first:.2f} s against {second:.2f} s"])


def agreement(plan_a: Predicting, plan_b: Predicting, inputs: Sequence[Any], **options: Any) -> Agreement:
    """Runs two plans on the same inputs and compares their answers.

    Args:
        plan_a, plan_b: plans with the same tasks, such as one of a bf16 backbone and one of a float32 backbone.
        inputs: as `plan.predict` takes them.
        **options: for `predict` of both, such as `batch_size` or `truncate`.

    Raises:
        InputError: if there are no inputs, or no task that both answer.
    """
    if not inputs:
        raise InputError("there are no inputs to compare answers for")
    answers, seconds = [], []
    for plan in (plan_a, plan_b):
        if "route" not in options:  # which names a task for each input
            with suppress(InputError):  # of some of the inputs alone, as where a BatchSplit counts them
                plan.predict(inputs[:WARM_UP], **options)
        start = time.perf_counter()
        answers.append(plan.predict(inputs, **options))
        seconds.append(time.perf_counter() - start)
    pairs: dict[Key, list[tuple[Any, Any]]] = {}
    for one, other in zip(*answers, strict=True):
        for task in one.keys() & other.keys():
            pairs.setdefault(task, []).append((one[task], other[task]))
    if not pairs:
        names = [str(key) for answer in answers for key in answer[0]]
        raise InputError("the plans have no task in common", legal=tuple(dict.fromkeys(names)))
    order = [task for answer in answers[0] for task in answer if task in pairs]
    tasks = tuple(_compared(task, pairs[task]) for task in dict.fromkeys(order))
    return Agreement(tasks, (seconds[0], seconds[1]))


def _compared(task: Key, pairs: Sequence[tuple[Any, Any]]) -> TaskAgreement:
    decided = [(decision(one), decision(other)) for one, other in pairs]
    counted = all(one is not None for one, _ in decided)
    same = sum(one == other for one, other in decided) if counted else None
    return TaskAgreement(task, len(pairs), same, max(_difference(one, other) for one, other in pairs))


def decision(prediction: Mapping[str, Any]) -> object:
    """What a prediction decides, None if it is a number.

    >>> decision({"label": "yes", "probability": 0.9}), decision({"labels": ["a", "b"]}), decision({"value": 1.5})
    ('yes', ('a', 'b'), None)
    """
    if "label" in prediction:
        return prediction["label"]
    if "labels" in prediction:
        return tuple(prediction["labels"])
    if "tags" in prediction:
        return tuple(prediction["tags"])
    if "entities" in prediction:
        return tuple((found["type"], found["start"], found["end"]) for found in prediction["entities"])
    if "answer" in prediction:
        return prediction["start"], prediction["end"]
    if prediction.get("next"):
        return prediction["next"][0]["id"]
    return None


def _difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    distances = [
        abs(a - b)
        for key in ("probabilities", "value", "values", "score", "logits")
        if key in one and key in other
        for a, b in zip(_numbers(one[key]), _numbers(other[key]), strict=False)
    ]
    return max(distances, default=0.0)


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, (int, float)):
        yield float(value)
