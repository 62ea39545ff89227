"""Tasks as callers name them: which outputs are wanted, whose labels are whose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from compose.errors import InputError, Problem
from compose.plan import Output


@dataclass(frozen=True)
class Targets:
    """Labels of one output.

    Args:
        labels: for every row of the batch, or for its own rows; None: no labels.
    """

    labels: Any = None

    def of(self, rows: Sequence[int] | None) -> Any:
        """The labels of the output's own rows."""
        if self.labels is None or rows is None:
            return self.labels
        if not rows:
            return None
        if len(self.labels) == len(rows):
            return self.labels
        if isinstance(self.labels, Tensor):
            return self.labels[list(rows)]
        return [self.labels[row] for row in rows]


def positions_of(tasks: Sequence[str | int] | None, outputs: Sequence[Output]) -> tuple[int, ...] | None:
    """The positions of the tasks asked for, None for all.

    Raises:
        InputError: naming every task that there is not, or that is ambiguous.
    """
    if tasks is None:
        return None
    asked = [tasks] if isinstance(tasks, str | int) else list(tasks)
    if not asked:
        raise InputError("no task is asked for", legal=_names(outputs), hint="leave `tasks` out for all of them")
    problems, positions = [], []
    for task in asked:
        found = _positions(task, outputs)
        if len(found) == 1:
            positions.append(found[0])
        else:
            problems.append(_not_one(task, found, outputs))
    if problems:
        raise InputError(problems)
    return tuple(sorted(set(positions)))


def labels_by_output(labels: Any, wanted: Sequence[Output], every: Sequence[Output]) -> list[Targets]:
    """Each wanted output's labels.

    Raises:
        InputError: if labels are given for tasks that there are not, or plain ones for several tasks.
    """
    if labels is None:
        return [Targets() for _ in wanted]
    if not isinstance(labels, Mapping):
        if len(every) > 1:
            raise InputError(
                f"plain labels, but the plan has {len(every)} tasks",
                legal=_names(every),
                hint="labels={'task': ..., ...}",
            )
        return [Targets(labels)]
    problems, given = [], {}
    for task, value in labels.items():
        found = _positions(task, every)
        if len(found) == 1:
            given[every[found[0]]] = value
        else:
            problems.append(_not_one(task, found, every))
    if problems:
        raise InputError(problems)
    return [Targets(given.get(output)) for output in wanted]


def loss_weights_of(
    weights: Mapping[str, float] | None, wanted: Sequence[Output], every: Sequence[Output]
) -> dict[str, float]:
    """The weights of the wanted outputs' losses.

    Raises:
        InputError: naming every task that there is not, or that is ambiguous.
    """
    found = {task: _positions(task, every) for task in weights or {}}
    problems = [_not_one(task, places, every) for task, places in found.items() if len(places) != 1]
    if problems:
        raise InputError(problems)
    names = {output.task for output in wanted}
    return {task: weight for task, weight in (weights or {}).items() if task in names}


def _positions(task: str | int, outputs: Sequence[Output]) -> list[int]:
    if isinstance(task, int):
        return [task % len(outputs)] if -len(outputs) <= task < len(outputs) else []
    return [position for position, output in enumerate(outputs) if output.task == task]


def _names(outputs: Sequence[Output]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(output.task for output in outputs if output.task is not None))


def _not_one(task: str | int, found: list[int], outputs: Sequence[Output]) -> Problem:
    if found:
        return Problem(f"{len(found)} outputs are called '{task}'", hint=f"ask by position: {found}")
    return Problem(f"there is no task '{task}'", got=str(task), legal=_names(outputs))
