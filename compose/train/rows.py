"""Examples as rows for a backbone, with labels by task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from compose.heads.answers import CONTEXT, NO_ANSWER, answer_positions
from compose.heads.spans import bio_tags, spread
from compose.heads.spec import IGNORED, VocabularyConfig
from compose.runtime.readers import reader_of
from compose.runtime.texts import Item, Row
from compose.train.data import Example, Input
from compose.train.masking import Masking, masking_of

if TYPE_CHECKING:
    from compose.heads.head import Head
    from compose.runtime.model import Model


BLOCK = 1024
"""Inputs that are tokenised at a time."""


@dataclass(frozen=True)
class RowGroup:
    """Rows that several tasks have labels of, so that one pass trains them all.

    Args:
        tasks: the tasks.
        rows: features of each row, and under `labels` its label by task, as `TaskCollator` takes them.
        image_tokens: how many tokens the backbone makes of an image, where the rows are images.
        cut: how many of the rows are cut, because their input is longer than the backbone takes.
        masking: masks tokens of the rows each time that they are drawn; None: they are as they are.
    """

    tasks: tuple[str, ...]
    rows: tuple[dict[str, Any], ...]
    cut: int = 0
    image_tokens: int = 0
    masking: Masking | None = None

    @property
    def lengths(self) -> list[int]:
        """The tokens of each row."""
        return [len(row.get("input_ids", ())) or self.image_tokens for row in self.rows]

    def drawn(self, place: int, seed: int, step: int) -> dict[str, Any]:
        """A row as a step of a training has it; the same for the same step, whoever asks.

        Args:
            place: of the row.
            seed: of the training.
            step: its number.
        """
        row = self.rows[place]
        return row if self.masking is None else self.masking(row, self.tasks, f"{seed}/{step}/{place}")


def row_groups(
    model: Model, examples: Mapping[str, Sequence[Example]], stride: int | None = None
) -> tuple[RowGroup, ...]:
    """The examples of several tasks as rows; tasks over the same inputs share theirs, if these are masked alike.

    Inputs that are longer than the backbone takes are cut, and the groups say how many; or they become several rows.

    Args:
        model: the backbone, with its tokenizer where it reads texts.
        examples: by task.
        stride: makes windows that overlap by so many tokens of what is too long, each a row with the label of the
            whole, or its own words' tags; an answer that a window lacks is there none.

    Raises:
        InputError: inputs or labels that do not fit, or a stride that leaves no room.
    """
    by_inputs: dict[tuple[Any, ...], list[str]] = {}
    for task, members in examples.items():
        inputs = tuple(_hashable(example.input) for example in members)
        head = model.heads.get(task)
        masking = None if head is None else masking_of(model, head.config)
        by_inputs.setdefault((inputs, masking), []).append(task)
    groups = []
    for (_, masking), tasks in by_inputs.items():
        rows, cut = [], 0
        for index, item in enumerate(_items(model, [example.input for example in examples[tasks[0]]], stride)):
            cut += item.cut
            for row in item.rows:
                labels = {task: row_label(examples[task][index], item, model.heads.get(task), row) for task in tasks}
                rows.append({**row.features, "labels": labels})
        groups.append(RowGroup(tuple(tasks), tuple(rows), cut, model.spec.tokens or 0, masking))
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


def encode_inputs(model: Model, inputs: Sequence[Input], stride: int | None = None, tokens: bool = False) -> list[Item]:
    """Inputs as items of one row each, cut to what the backbone takes; or with a stride in windows.

    Args:
        model: the backbone, with its tokenizer where it reads texts.
        inputs: the inputs.
        stride: by how many tokens windows overlap; None: there are none.
        tokens: whether rows keep where each token comes from.
    """
    reader = reader_of(model)
    return reader.encode(reader.check(list(inputs)), stride is None, stride, tokens=tokens)


def _items(model: Model, inputs: Sequence[Input], stride: int | None) -> Iterator[Item]:
    """Inputs as items whose rows know where tokens come from, few at a time: that is larger than the rows."""
    for start in range(0, len(inputs), BLOCK):
        yield from encode_inputs(model, inputs[start : start + BLOCK], stride, tokens=True)


def cut_inputs(model: Model, inputs: Sequence[Input]) -> int:
    """How many inputs are longer than the backbone takes, so that `encode_inputs` and truncation cut them."""
    return sum(item.cut for item in encode_inputs(model, inputs)) if inputs else 0


def row_label(example: Example, item: Item, head: Head | None = None, row: Row | None = None) -> Any:
    """An example's label for its row, or for one of its rows.

    Args:
        example: the example.
        item: its input as rows.
        head: what learns from it; where None is given, what the target looks like decides.
        row: the row; the first by default.

    Returns:
        The label as it is; for each token its word's tag, or the token itself where the head learns a language; for
        each label of the head 1 if it is one of several, else 0; the positions of the first answer's first and last
        token.

    Raises:
        InputError: one of several labels that the head does not have.
    """
    target, row = example.target, row or item.rows[0]
    if head is not None and isinstance(head.config, VocabularyConfig):
        return list(row.features["input_ids"])
    if not isinstance(target, tuple):
        return target
    if head is not None and head.positions:
        start, end, _ = target[0] if target else (0, 0, "")
        return list(answer_positions(row.tokens, start, end, item.source.texts[CONTEXT]) or (NO_ANSWER, NO_ANSWER))
    if head is not None and getattr(head.config, "problem", None) == "multi_label":
        chosen = {head.encode_label(name) for name in target}
        return [int(place in chosen) for place in range(len(head.labels))]
    if isinstance(example.input, list):
        tags: Sequence[str] = target
    elif all(isinstance(span, tuple) for span in target):
        tags = bio_tags(item.source.words, target)
    else:
        return list(target)
    return spread(row.words, tags, IGNORED)


def _hashable(given: Input) -> Any:
    return given if isinstance(given, tuple) else tuple(given) if isinstance(given, list) else (given,)
