"""Examples as rows for a backbone, with labels by task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from compose.heads.spans import bio_tags, spread
from compose.heads.spec import IGNORED
from compose.runtime.readers import reader_of
from compose.runtime.texts import Item
from compose.train.data import Example, Input

if TYPE_CHECKING:
    from compose.heads.head import Head
    from compose.runtime.model import Model


@dataclass(frozen=True)
class RowGroup:
    """Rows that several tasks have labels of, so that one pass trains them all.

    Args:
        tasks: the tasks.
        rows: features of each row, and under `labels` its label by task, as `TaskCollator` takes them.
        image_tokens: how many tokens the backbone makes of an image, where the rows are images.
        cut: how many of the rows are cut, because their input is longer than the backbone takes.
    """

    tasks: tuple[str, ...]
    rows: tuple[dict[str, Any], ...]
    cut: int = 0
    image_tokens: int = 0

    @property
    def lengths(self) -> list[int]:
        """The tokens of each row."""
        return [len(row.get("input_ids", ())) or self.image_tokens for row in self.rows]


def row_groups(model: Model, examples: Mapping[str, Sequence[Example]]) -> tuple[RowGroup, ...]:
    """The examples of several tasks as rows; tasks over the same inputs share theirs.

    Inputs that are longer than the backbone takes are cut; the groups say how many.

    Args:
        model: the backbone, with its tokenizer where it reads texts.
        examples: by task.
    """
    by_inputs: dict[tuple[Any, ...], list[str]] = {}
    for task, members in examples.items():
        key = tuple(_hashable(example.input) for example in members)
        by_inputs.setdefault(key, []).append(task)
    groups = []
    for tasks in by_inputs.values():
        items = encode_inputs(model, [example.input for example in examples[tasks[0]]])
        rows = []
        for index, item in enumerate(items):
            labels = {task: row_label(examples[task][index], item, model.heads.get(task)) for task in tasks}
            rows.append({**item.rows[0].features, "labels": labels})
        cut = sum(item.cut for item in items)
        groups.append(RowGroup(tuple(tasks), tuple(rows), cut, model.spec.tokens or 0))
    return tuple(groups)


def apart(groups: Sequence[RowGroup]) -> list[RowGroup]:
    """The rows of each task as a group of its own."""
    return [
        group
        if len(group.tasks) == 1
        else replace(
            group,
            tasks=(task,),
            rows=tuple({**row, "labels": {task: row["labels"].get(task)}} for row in group.rows),
        )
        for group in groups
        for task in group.tasks
    ]


def encode_inputs(model: Model, inputs: Sequence[Input]) -> list[Item]:
    """Inputs as items of one row each, cut to what the backbone takes."""
    reader = reader_of(model)
    return reader.encode(reader.check(list(inputs)), truncate=True)


def cut_inputs(model: Model, inputs: Sequence[Input]) -> int:
    """How many inputs are longer than the backbone takes, so that `encode_inputs` and truncation cut them."""
    return sum(item.cut for item in encode_inputs(model, inputs)) if inputs else 0


def row_label(example: Example, item: Item, head: Head | None = None) -> Any:
    """An example's label for its row.

    Args:
        example: the example.
        item: its input as rows.
        head: what learns from it; where None is given, what the target looks like decides.

    Returns:
        The label as it is; for each token its word's tag, or the token itself where the head learns a language; for
        each label of the head 1 if it is one of several, else 0.

    Raises:
        InputError: one of several labels that the head does not have.
    """
    target = example.target
    if head is not None and head.config.kind == "causal_lm":
        return list(item.rows[0].features["input_ids"])
    if not isinstance(target, tuple):
        return target
    if head is not None and getattr(head.config, "problem", None) == "multi_label":
        chosen = {head.encode_label(name) for name in target}
        return [int(place in chosen) for place in range(len(head.labels))]
    if isinstance(example.input, list):
        tags: Sequence[str] = target
    elif all(isinstance(span, tuple) for span in target):
        tags = bio_tags(item.source.words, target)
    else:
        return list(target)
    return spread(item.rows[0].words, tags, IGNORED)


def _hashable(given: Input) -> Any:
    return given if isinstance(given, tuple) else tuple(given) if isinstance(given, list) else (given,)
