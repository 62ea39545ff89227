"""Tasks as callers name them: which outputs are wanted, whose labels are whose."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from compose.errors import InputError, Problem
from compose.methods.config import is_number
from compose.plan import Output


@dataclass(frozen=True)
class Targets:
    """Labels of one output.

    Args:
        task: the output's task.
        labels: for every row of the batch, or for its own rows; None: no labels.
    """

    task: str | None
    labels: Any = None

    def of(self, rows: Sequence[int] | None, batch: int) -> Any:
        """The labels of the output's own rows; `rows` is None if it has all of the batch.

        Raises:
            InputError: if there are labels neither for each row of the batch nor for each of its own.
        """
        if self.labels is None or rows is None:
            return self.labels
        if not rows:
            return None
        count = _length(self.labels)
        if count == len(rows):
            return self.labels
        if count != batch:
            given = "the labels are no list" if count is None else f"{count} labels"
            raise InputError(
                f"{given}, but {len(rows)} of the batch's {batch} rows are its own",
                where=f"task '{self.task}'",
                hint="labels for each row of the batch, or for each row of its own",
            )
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
        InputError: if labels are given for tasks that there are not, twice for one, or plain ones for several.
    """
    if labels is None:
        return [Targets(output.task) for output in wanted]
    if not isinstance(labels, Mapping):
        if len(every) > 1:
            raise InputError(
                f"plain labels, but the plan has {len(every)} tasks",
                legal=_names(every),
                hint="labels={'task': ..., ...}",
            )
        return [Targets(every[0].task, labels)]
    problems = _task_problems(labels, every)
    if problems:
        raise InputError(problems)
    given = {every[_positions(task, every)[0]]: value for task, value in labels.items()}
    return [Targets(output.task, given.get(output)) for output in wanted]


def loss_weights_of(
    weights: Mapping[str | int, float] | None, wanted: Sequence[Output], every: Sequence[Output]
) -> dict[str | int, float]:
    """The weights of the wanted outputs' losses, by the keys that `MultiHeadOutput` has for them.

    Raises:
        InputError: naming every task that there is not, that is ambiguous or given twice, and every weight that
            is no finite number.
    """
    if weights is None:
        return {}
    if not isinstance(weights, Mapping):
        raise InputError(
            f"loss_weights is a {type(weights).__name__}, but weights by task are needed",
            legal=_names(every),
            hint="loss_weights={'task': 0.5}",
        )
    problems = _task_problems(weights, every)
    problems += [
        Problem(f"the loss weight of task {task!r} is {weight!r}, but a finite number is needed")
        for task, weight in weights.items()
        if not _is_weight(weight)
    ]
    if problems:
        raise InputError(problems)
    names = [output.task for output in wanted]
    keys = {
        output: position if output.task is None or names.count(output.task) > 1 else output.task
        for position, output in enumerate(wanted)
    }
    given = {every[_positions(task, every)[0]]: weight for task, weight in weights.items()}
    return {keys[output]: weight for output, weight in given.items() if output in keys}


def _task_problems(tasks: Iterable[str | int], outputs: Sequence[Output]) -> list[Problem]:
    """Tasks that there are not, that are ambiguous, and that are given twice, by name and by position."""
    problems: list[Problem] = []
    seen: dict[int, str | int] = {}
    for task in tasks:
        found = _positions(task, outputs)
        if len(found) != 1:
            problems.append(_not_one(task, found, outputs))
        elif found[0] in seen:
            name = outputs[found[0]].task
            called = f"output {found[0]}" if name is None else f"task '{name}'"
            problems.append(Problem(f"{called} is given twice, as {seen[found[0]]!r} and as {task!r}"))
        else:
            seen[found[0]] = task
    return problems


def _is_weight(weight: Any) -> bool:
    """Whether it can weigh a loss; what a tensor holds is not looked at, since a device would have to answer."""
    if isinstance(weight, Tensor):
        return weight.numel() == 1
    return is_number(weight)


def _length(labels: Any) -> int | None:
    """How many labels there are, None if they are no sequence."""
    try:
        return len(labels)
    except TypeError:
        return None


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
