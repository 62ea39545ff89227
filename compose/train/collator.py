"""Rows to batches, with labels by task: for a `Trainer` or a `DataLoader`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from compose.errors import InputError, Problem
from compose.heads.head import Head
from compose.heads.spec import IGNORED
from compose.runtime.texts import batch_of

POSITIONS = ("start_positions", "end_positions")
"""What transformers calls the two positions of an answer."""

TOKEN_FEATURES = ("input_ids", "attention_mask", "token_type_ids", "special_tokens_mask", "position_ids")


class TaskCollator:
    """Pads rows to a batch, labels included.

    A row has what its backbone reads (`input_ids` ..., or `pixel_values`) and, under `labels` or `label`,
    either one task's label or a mapping of task to label. A label is a number, a name (where `heads` are
    given), a list of numbers for several labels, a list as long as `input_ids`, one for each token, or for question
    answering the positions of the answer's first and last token, `[start, end]`; without `labels` a row may have
    these under `start_positions` and `end_positions` too. Positions past the row are not counted.
    Rows may lack the labels of a task: where a row lacks one it is -100, or not-a-number where labels
    are fractions, and the heads do not count it. A task that no row of a batch has is left out, but not if
    `heads` are given: a `Trainer` in evaluation needs the same tasks in every batch. `route`, a name for
    each row, stays a list.

    Args:
        tokenizer: pads the text; None for backbones that read no text.
        heads: the heads by task, such as `model.heads`; they turn names of labels into ids, and say what a
            task's labels look like.
        pad_to_multiple_of: makes rows' length a multiple of it.
        tasks: the tasks that batches have labels of; None is all of `heads`.

    Raises:
        InputError: when called, for rows or labels that do not fit together.

    >>> collate = TaskCollator(None)
    >>> collate([{"x": 1.0, "labels": {"a": 1}}, {"x": 2.0, "labels": {"a": 0, "b": 0.5}}])["labels"]
    {'a': tensor([1, 0]), 'b': tensor([   nan, 0.5000])}
    """

    def __init__(
        self,
        tokenizer: Any = None,
        heads: Mapping[str, Head] | None = None,
        pad_to_multiple_of: int | None = None,
        tasks: Sequence[str] | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.heads = {name: head for name, head in (heads or {}).items() if tasks is None or name in tasks}
        self.pad_to_multiple_of = pad_to_multiple_of
        missing = [task for task in tasks or () if heads is not None and task not in heads]
        if missing:
            legal = tuple(heads or ())
            raise InputError([Problem(f"no head is called '{task}'", got=task, legal=legal) for task in missing])

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The batch: tensors by name, `labels` a tensor or a dict of tensors.

        Args:
            features: the rows.
        """
        if not features:
            raise InputError("there are no rows to make a batch of")
        rows = [dict(row) for row in features]
        labels = [_label(row) for row in rows]
        names = list(dict.fromkeys(name for row in rows for name in row))
        absent = [
            Problem(f"row {index} has no '{name}', which others have")
            for name in names
            for index, row in enumerate(rows)
            if name not in row
        ]
        if absent:
            raise InputError(absent)
        lengths = [len(row["input_ids"]) for row in rows] if "input_ids" in names else []
        batch = self._tokens(rows, [name for name in names if name in TOKEN_FEATURES])
        for name in names:
            if name not in batch:
                values = [row[name] for row in rows]
                batch[name] = values if isinstance(values[0], str) else _stacked(values, name)
        width = batch["input_ids"].shape[1] if lengths else 0
        found = self._labels(labels, lengths, width)
        return batch if found is None else batch | {"labels": found}

    def _tokens(self, rows: list[dict[str, Any]], names: list[str]) -> dict[str, Any]:
        if not names:
            return {}
        if self.tokenizer is None:
            raise InputError("rows of token ids need a tokenizer to pad them", hint="TaskCollator(tokenizer)")
        tokens = [{name: _plain(row[name]) for name in names} for row in rows]
        if self.tokenizer.pad_token_id is None:  # GPT-2, LLaMA: anything will do under the mask
            return dict(batch_of(tokens, self.tokenizer, torch.device("cpu")))
        return dict(self.tokenizer.pad(tokens, pad_to_multiple_of=self.pad_to_multiple_of, return_tensors="pt"))

    def _labels(self, labels: list[Any], lengths: list[int], width: int) -> Tensor | dict[str, Tensor] | None:
        by_task = [isinstance(label, Mapping) for label in labels]
        if any(by_task):
            if any(not is_mapping and label is not None for is_mapping, label in zip(by_task, labels, strict=True)):
                raise InputError("some rows have labels by task, and others a single label")
            tasks = list(dict.fromkeys([*self.heads, *(task for label in labels for task in label or ())]))
            columns = {task: [(label or {}).get(task) for label in labels] for task in tasks}
            made = {task: self._column(task, column, lengths, width) for task, column in columns.items()}
            return {task: column for task, column in made.items() if column is not None}
        only = next(iter(self.heads)) if len(self.heads) == 1 else ""
        return self._column(only, labels, lengths, width) if any(label is not None for label in labels) else None

    def _column(self, task: str, values: list[Any], lengths: list[int], width: int) -> Tensor | None:
        """One task's labels."""
        head = self.heads.get(task)
        where = f"labels of task '{task}'" if task else "labels"
        if (head is not None and head.positions) or any(isinstance(value, Positions) for value in values):
            return self._positions([_plain(value) for value in values], lengths, width, where)
        encode = head.encode_label if head is not None else None
        column = [_encoded(_plain(value), encode) for value in values]
        present = [value for value in column if value is not None]
        config = getattr(head, "config", None)
        problem = getattr(config, "problem", None)
        if not present:
            return self._nothing(head, problem, len(values), width)
        vectors = [isinstance(value, list) for value in present]
        if any(vectors) != all(vectors):
            raise InputError("some labels are lists and others are not", where=where)
        per_token = (head is not None and head.per_token) or (
            (head is None or not head.labels) and _fits(column, lengths)
        )
        if any(vectors) and per_token and problem is None:
            return self._token_labels(column, lengths, width, where)
        if any(vectors):
            sizes = {len(value) for value in present}
            if len(sizes) > 1:
                raise InputError(f"lists of {sorted(sizes)} labels, but rows need as many as each other", where=where)
            blank: list[Any] = [float("nan")] * sizes.pop()
            return torch.tensor([blank if value is None else value for value in column], dtype=torch.float)
        fractional = problem in ("regression", "multi_label") or any(isinstance(value, float) for value in present)
        hole = float("nan") if fractional else IGNORED
        dtype = torch.float if fractional else torch.long
        try:
            return torch.tensor([hole if value is None else value for value in column], dtype=dtype)
        except (TypeError, ValueError) as error:
            hint = "heads=model.heads turns names into ids"
            raise InputError("labels that are no numbers", where=where, why=str(error), hint=hint) from None

    def _pads_left(self) -> bool:
        return self.tokenizer.padding_side == "left" and self.tokenizer.pad_token_id is not None

    def _positions(self, column: list[Any], lengths: list[int], width: int, where: str) -> Tensor:
        """Positions of tokens, as padding moves them; those past the row are not counted."""
        if not lengths:
            raise InputError("positions of tokens, but the rows have no 'input_ids'", where=where)
        made = []
        for index, (value, length) in enumerate(zip(column, lengths, strict=True)):
            own = [IGNORED] * len(POSITIONS) if value is None else value
            own = [IGNORED if each is None else each for each in own] if isinstance(own, list) else []
            if len(own) != len(POSITIONS) or not all(type(each) is int for each in own):
                what = f"row {index} has {value!r}, but the positions of the first and the last token are needed"
                raise InputError(what, where=where, hint="[start, end]; [0, 0] is no answer")
            own = [IGNORED if each >= length else each for each in own]
            moved = width - length if self._pads_left() else 0
            made.append([each if each < 0 else each + moved for each in own])
        return torch.tensor(made)

    def _token_labels(self, column: list[Any], lengths: list[int], width: int, where: str) -> Tensor:
        left = self._pads_left()
        padded = []
        for index, (value, length) in enumerate(zip(column, lengths, strict=True)):
            if value is not None and len(value) != length:
                raise InputError(f"row {index} has {len(value)} labels for {length} tokens", where=where)
            own = [IGNORED if each is None else each for each in value or [None] * length]
            blank = [IGNORED] * (width - length)
            padded.append(blank + own if left else own + blank)
        return torch.tensor(padded)

    def _nothing(self, head: Head | None, problem: str | None, rows: int, width: int) -> Tensor | None:
        """The labels of a task that no row has a label of."""
        if head is None or not (head.labels or head.per_token):
            return None
        if head.per_token:
            return torch.full((rows, width), IGNORED)
        count = len(head.labels)
        if problem == "single":
            return torch.full((rows,), IGNORED)
        shape = (rows, count) if problem == "multi_label" or count > 1 else (rows,)
        return torch.full(shape, float("nan"))


class Positions(NamedTuple):
    """The positions of the first and the last token of an answer."""

    start: Any
    end: Any


def _label(row: dict[str, Any]) -> Any:
    """Takes a row's label out of it; the positions of an answer where it has these and no label."""
    label = row.pop("labels", row.pop("label", None))
    if label is None and all(name in row for name in POSITIONS):
        return Positions(*(_plain(row.pop(name)) for name in POSITIONS))
    return label


def _plain(value: Any) -> Any:
    """Numbers and lists, whatever tensors or arrays they came in."""
    return value.tolist() if hasattr(value, "tolist") else list(value) if isinstance(value, tuple) else value


def _encoded(value: Any, encode: Any) -> Any:
    if isinstance(value, list):
        return [_encoded(each, encode) for each in value]
    return encode(value) if isinstance(value, str) and encode is not None else value


def _fits(column: list[Any], lengths: list[int]) -> bool:
    """Whether labels look like tokens' labels: whole numbers, as many as tokens."""
    pairs = zip(column, lengths, strict=True) if lengths else ()
    lists = [(value, length) for value, length in pairs if isinstance(value, list)]
    return bool(lists) and all(
        len(value) == length and not any(isinstance(each, float) for each in value) for value, length in lists
    )


def _stacked(values: list[Any], name: str) -> Tensor:
    try:
        return torch.stack([torch.as_tensor(value) for value in values])
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"the rows' '{name}' do not fit into one tensor", why=str(error)) from None
