"""Texts or images in, answers out: read, batch by length, run, and let each head say what its logits mean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from compose.errors import InputError, Problem
from compose.heads.head import Head
from compose.heads.output import Key, MultiHeadOutput
from compose.heads.spans import Window
from compose.runtime.batches import batches, default_tokens, limit_problems
from compose.runtime.readers import Reader, reader_of
from compose.runtime.texts import Item, Row

Prediction = dict[Key, dict[str, Any]]
"""An input's answers by task; by position where a task has no name of its own."""


class Answering(Protocol):
    """What `predict` needs of a plan: the model (`backbone`, `spec`, `device`, `tokenizer`), and each output's head."""

    @property
    def model(self) -> Any: ...

    def heads_of(self, tasks: Sequence[str | int] | None = None) -> Sequence[Head]:
        """The head of each output asked for, in the outputs' order."""

    def __call__(
        self,
        *,
        tasks: Sequence[str | int] | None = None,
        route: Sequence[str] | None = None,
        **inputs: Any,
    ) -> MultiHeadOutput: ...


def predict(
    plan: Answering,
    inputs: Sequence[Any],
    *,
    batch_size: int | None = None,
    batch_tokens: int | None = None,
    truncate: bool = False,
    stride: int | None = None,
    route: Sequence[str] | None = None,
    tasks: Sequence[str | int] | None = None,
    together: bool = False,
) -> list[Prediction]:
    """Each input's answers to every task of a plan.

    Args:
        plan: the plan.
        inputs: texts, pairs of texts (tuples), or words of texts (lists), in any mixture; for backbones that read
            images, arrays or tensors `[channels, height, width]` of numbers from 0 to 1.
        batch_size: the most rows at a time.
        batch_tokens: the most tokens at a time, padding among them; a longer row runs alone. Where neither is
            given, 1,024 on a CPU, whose caches hold no more, and 16,384 elsewhere.
        truncate: cut what is longer than the backbone takes.
        stride: instead, cut it into windows that overlap by so many tokens: probabilities and values are
            averaged, each word is tagged by the window in which it is farthest from the edges, and of windows'
            answers the best one wins.
        route: for plans with Route, the task of each input.
        tasks: the tasks wanted, all by default.
        together: run all inputs as one batch in the order given, for plans whose rows are told apart by
            their place in the batch; the limits of batches are not asked then.

    Returns:
        For each input, in the order given, a mapping of task to prediction. What a prediction says is its
        head's matter: `label`, `probability` and `probabilities`; `labels` and `probabilities`; `value`;
        `entities` (type, start and end in the text, text, score) and, where words were given, `tags`; `answer`
        (its start and end in the second text, score and probability); `next`; `masked`, for each mask token of the
        text what may stand there.

    Raises:
        InputError: inputs of a wrong type or too long, or options that do not fit; all of them at once.
    """
    model, heads = plan.model, plan.heads_of(tasks)
    reader = reader_of(model)
    given = reader.check(inputs)
    _check_options(reader, len(given), batch_size, batch_tokens, truncate, stride, route)
    _check_pairs(given, heads, route)
    if not given:
        return []
    words, tokens = any(head.needs_words for head in heads), any(head.positions for head in heads)
    items = reader.encode(given, truncate, stride, words, tokens)
    if together and any(len(item.rows) > 1 for item in items):
        raise InputError(
            "inputs cannot be cut into windows where a plan tells rows by their place", hint="truncate=True"
        )
    rows = [(index, row) for index, item in enumerate(items) for row in item.rows]
    if batch_size is None and batch_tokens is None:
        batch_tokens = default_tokens(model.device.type)
    order = [list(range(len(rows)))]
    if not together:
        order = batches([len(row.words) for _, row in rows], batch_size, batch_tokens)
    collected = _Collected(items)
    mask = getattr(model.tokenizer, "mask_token_id", None)
    with evaluation(model), torch.no_grad():
        for places in order:
            batch = reader.batch([rows[place][1] for place in places])
            width = max(len(rows[place][1].words) for place in places)
            named = None if route is None else [route[rows[place][0]] for place in places]
            out = plan(**batch, tasks=tasks, route=named)
            keyed = dict(zip(out.keys(), heads, strict=True))
            for key, output in out.items():
                for logits, at in _rows(output.logits, output.rows, len(places)):
                    index, row = rows[places[at]]
                    window = _window(logits, row, width, keyed[key], mask)
                    collected.windows[index].setdefault(key, {})[places[at]] = window
            collected.decode([rows[place][0] for place in places], keyed)
    return collected.answers


def _check_options(
    reader: Reader,
    count: int,
    batch_size: int | None,
    batch_tokens: int | None,
    truncate: bool,
    stride: int | None,
    route: Sequence[str] | None,
) -> None:
    lacking = reader.lacking()
    problems = [*([lacking] if lacking else []), *limit_problems(batch_size, batch_tokens)]
    if stride is not None and (not isinstance(stride, int) or stride < 0):
        problems.append(Problem(f"stride={stride!r}, but a whole number of at least 0 is needed"))
    if stride is not None and truncate:
        problems.append(Problem("truncate and stride exclude each other"))
    if route is not None and len(route) != count:
        problems.append(Problem(f"route has {len(route)} names for {count} inputs"))
    if problems:
        raise InputError(problems)


def _check_pairs(given: Sequence[Any], heads: Sequence[Head], route: Sequence[str] | None) -> None:
    """InputError: an input is one text alone, but a head whose task it is reads pairs."""
    problems = []
    for head in (head for head in heads if head.needs_pair):
        for index, each in enumerate(given):
            if not isinstance(each, tuple) and (route is None or route[index] == head.name):
                what = f"one text alone, but task '{head.name}' answers a question by a text"
                problems.append(Problem(what, where=f"input {index}", hint="a pair: (question, text)"))
    if problems:
        raise InputError(problems)


class _Collected:
    """The windows of each input, until all of them are there and can be decoded: nothing is kept for longer."""

    def __init__(self, items: Sequence[Item]) -> None:
        self.sources = [item.source for item in items]
        self.missing = [len(item.rows) for item in items]
        self.windows: list[dict[Key, dict[int, Window]]] = [{} for _ in items]  # by task and the row's place
        self.answers: list[Prediction] = [{} for _ in items]

    def decode(self, run: Sequence[int], heads: Mapping[Key, Head]) -> None:
        """Takes note of the rows that have run, by their inputs, and decodes the inputs that are whole."""
        for index in run:
            self.missing[index] -= 1
        whole = [index for index in dict.fromkeys(run) if not self.missing[index]]
        for key, head in heads.items():
            chosen = [index for index in whole if key in self.windows[index]]
            windows = [[found[place] for place in sorted(found)] for found in (self.windows[i][key] for i in chosen)]
            said = head.decode_all(windows, [self.sources[index] for index in chosen])
            for index, prediction in zip(chosen, said, strict=True):
                self.answers[index][key] = prediction
        for index in whole:
            self.windows[index] = {}


def _rows(logits: Tensor | None, rows: Tensor | None, count: int) -> Iterator[tuple[Tensor, int]]:
    """Each row's logits with its place in the batch."""
    if logits is not None:
        yield from zip(logits.cpu(), range(count) if rows is None else rows.tolist(), strict=True)


def _window(logits: Tensor, row: Row, width: int, head: Head, mask: int | None) -> Window:
    """A row's logits without those of its padding; `mask` is the id of the token that hides others."""
    per_token = head.per_token or (logits.dim() > 1 and logits.shape[0] == width)
    return Window(logits[: len(row.words)] if per_token else logits, row.words, row.tokens, row.of_token(mask))


@contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; afterwards each module is in the mode it was in."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
