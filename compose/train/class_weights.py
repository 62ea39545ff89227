"""How much each label weighs in its task's loss, while it is trained."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from compose.errors import ConfigError, Problem
from compose.heads.head import Head, Weighs
from compose.heads.spec import IGNORED
from compose.train.rows import RowGroup
from compose.train.settings import ClassWeights

if TYPE_CHECKING:
    from compose.runtime.model import Model


@contextmanager
def weighing(model: Model, groups: Sequence[RowGroup], chosen: Mapping[str, ClassWeights]) -> Iterator[None]:
    """Weighs labels in the losses of heads for a while.

    Args:
        model: whose heads.
        groups: the rows whose labels `balanced` counts.
        chosen: by task.

    Raises:
        ConfigError: everything that is wrong: tasks that there are not or whose head has no classes, labels that it
            does not have.
    """
    check_class_weights(model, [task for group in groups for task in group.tasks], chosen)
    heads = {task: model.heads[task] for task in chosen}
    try:
        for task, head in heads.items():
            head.class_weights = weights_of(head, groups, chosen[task])
        yield
    finally:
        for head in heads.values():
            head.class_weights = None


def check_class_weights(model: Model, tasks: Iterable[str], chosen: Mapping[str, ClassWeights]) -> None:
    """Refuses weights for what there is not.

    Args:
        model: whose heads.
        tasks: that are trained.
        chosen: by task.

    Raises:
        ConfigError: tasks that there are not or whose head has no classes, labels that it does not have.
    """
    legal = tuple(dict.fromkeys(tasks))
    problems = [problem for task, weights in chosen.items() for problem in _problems(model, legal, task, weights)]
    if problems:
        raise ConfigError(problems)


def weights_of(head: Head, groups: Sequence[RowGroup], chosen: ClassWeights) -> Tensor:
    """The weight of each label, `[labels]`.

    Args:
        head: of the task.
        groups: the rows.
        chosen: `balanced` is for classes rows / (classes x rows of the class), as in scikit-learn; where a row has
            several labels, rows without the label / rows with it. A label that no row has, or every one, is 1.
    """
    if chosen != "balanced":
        return torch.tensor([float(chosen.get(label, 1.0)) for label in head.labels], dtype=torch.float64)
    labels = [row["labels"].get(head.name) for group in groups if head.name in group.tasks for row in group.rows]
    found = _BALANCED[head.weighs or "rows"](head, [_listed(label) for label in labels if label is not None])
    return torch.tensor(found, dtype=torch.float64)


def _listed(label: Any) -> list[Any]:
    several = label.tolist() if hasattr(label, "tolist") else label
    return list(several) if isinstance(several, list | tuple) else [several]


def _of_rows(head: Head, labels: list[list[Any]]) -> list[float]:
    ids = (head.encode_label(each) for row in labels for each in row)
    counts = Counter(each for each in ids if each != IGNORED)
    total = counts.total()
    return [total / (len(counts) * counts[place]) if counts[place] else 1.0 for place in range(len(head.labels))]


def _of_positives(head: Head, labels: list[list[Any]]) -> list[float]:
    columns = [[row[place] for row in labels if _counts(row[place])] for place in range(len(head.labels))]
    return [(len(each) - sum(each)) / sum(each) if 0 < sum(each) < len(each) else 1.0 for each in columns]


def _counts(value: float) -> bool:
    return not math.isnan(value) and value != IGNORED


_BALANCED: dict[Weighs, Callable[[Head, list[list[Any]]], list[float]]] = {
    "rows": _of_rows,
    "positives": _of_positives,
}


def _problems(model: Model, legal: tuple[str, ...], task: str, chosen: ClassWeights) -> Iterator[Problem]:
    if task not in legal:
        yield Problem(f"class_weights: no task '{task}' is trained", got=task, legal=legal)
        return
    head = model.heads[task]
    if head.weighs is None:
        yield Problem(f"class_weights: the head '{task}' has no classes")
    elif chosen != "balanced":
        for label, weight in chosen.items():
            if label not in head.labels:
                yield Problem(f"class_weights.{task}: there is no label '{label}'", got=label, legal=head.labels)
            elif not weight > 0:
                yield Problem(f"class_weights.{task}.{label}={weight!r}, but a number above 0 is needed")
