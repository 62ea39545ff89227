"""Text in, answers out: tokenise, batch by length, run, and let each head say what its logits mean."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from compose.errors import InputError, Problem
from compose.heads.head import Head
from compose.heads.output import Key, MultiHeadOutput
from compose.heads.spans import Window
from compose.runtime.texts import Item, Row, batch_of, check, encode, longest

Prediction = dict[Key, dict[str, Any]]
"""An input's answers by task; by position where a task has no name of its own."""


class Answering(Protocol):
    """What `predict` needs of a plan: the model (with `backbone` and `tokenizer`), and each output's head."""

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
    inputs: Sequence[str | tuple[str, str] | list[str]],
    *,
    batch_size: int = 32,
    truncate: bool = False,
    stride: int | None = None,
    route: Sequence[str] | None = None,
    tasks: Sequence[str | int] | None = None,
    together: bool = False,
) -> list[Prediction]:
    """Each input's answers to every task of a plan.

    Args:
        plan: the plan.
        inputs: texts, pairs of texts (tuples), or words of texts (lists), in any mixture.
        batch_size: the most rows at a time.
        truncate: cut what is longer than the backbone takes.
        stride: instead, cut it into windows that overlap by so many tokens: probabilities and values are
            averaged, and each word is tagged by the window in which it is farthest from the edges.
        route: for plans with Route, the task of each input.
        tasks: the tasks wanted, all by default.
        together: run all inputs as one batch in the order given, for plans whose rows are told apart by
            their place in the batch.

    Returns:
        For each input, in the order given, a mapping of task to prediction. What a prediction says is its
        head's matter: `label`, `probability` and `probabilities`; `labels` and `probabilities`; `value`;
        `entities` (type, start and end in the text, text, score) and, where words were given, `tags`; `next`.

    Raises:
        InputError: inputs of a wrong type or too long, or options that do not fit; all of them at once.
    """
    model, heads = plan.model, plan.heads_of(tasks)
    given = check(inputs)
    _check_options(model, len(given), batch_size, truncate, stride, route)
    if not given:
        return []
    limit = longest(model.tokenizer, model.backbone)
    words = any(head.needs_words for head in heads)
    items = encode(model.tokenizer, given, limit, truncate, stride, words)
    if together and any(len(item.rows) > 1 for item in items):
        raise InputError(
            "inputs cannot be cut into windows where a plan tells rows by their place", hint="truncate=True"
        )
    rows = [(index, row) for index, item in enumerate(items) for row in item.rows]
    order = list(range(len(rows)))
    if not together:
        order.sort(key=lambda place: len(rows[place][1].words))
    size = len(rows) if together else batch_size
    windows: list[dict[Key, dict[int, Window]]] = [{} for _ in items]  # by input, task and place in `rows`
    keyed: dict[Key, Head] = {}
    with evaluation(model), torch.no_grad():
        for start in range(0, len(order), size):
            places = order[start : start + size]
            batch = _batch([rows[place][1] for place in places], model)
            named = None if route is None else [route[rows[place][0]] for place in places]
            out = plan(**batch, tasks=tasks, route=named)
            keyed.update(zip(out.keys(), heads, strict=True))
            for key, output in out.items():
                for logits, at in _rows(output.logits, output.rows, len(places)):
                    index, row = rows[places[at]]
                    found = windows[index].setdefault(key, {})
                    found[places[at]] = _window(logits, row, batch["input_ids"].shape[1], keyed[key])
    return [_answers(item, found, keyed) for item, found in zip(items, windows, strict=True)]


def _check_options(
    model: Any, count: int, batch_size: int, truncate: bool, stride: int | None, route: Sequence[str] | None
) -> None:
    problems = []
    if model.tokenizer is None:
        problems.append(Problem("the model has no tokenizer, which texts need", hint="attach(model, tokenizer)"))
    if not isinstance(batch_size, int) or batch_size < 1:
        problems.append(Problem(f"batch_size={batch_size!r}, but a whole number of at least 1 is needed"))
    if stride is not None and (not isinstance(stride, int) or stride < 0):
        problems.append(Problem(f"stride={stride!r}, but a whole number of at least 0 is needed"))
    if stride is not None and truncate:
        problems.append(Problem("truncate and stride exclude each other"))
    if route is not None and len(route) != count:
        problems.append(Problem(f"route has {len(route)} names for {count} inputs"))
    if problems:
        raise InputError(problems)


def _batch(rows: Sequence[Row], model: Any) -> dict[str, Tensor]:
    device = next(iter(model.backbone.parameters())).device
    return batch_of([row.features for row in rows], model.tokenizer, device)


def _rows(logits: Tensor | None, rows: Tensor | None, count: int) -> Iterator[tuple[Tensor, int]]:
    """Each row's logits with its place in the batch."""
    if logits is not None:
        yield from zip(logits.cpu(), range(count) if rows is None else rows.tolist(), strict=True)


def _window(logits: Tensor, row: Row, width: int, head: Head) -> Window:
    """A row's logits without those of its padding."""
    per_token = head.per_token or (logits.dim() > 1 and logits.shape[0] == width)
    return Window(logits[: len(row.words)] if per_token else logits, row.words)


def _answers(item: Item, found: dict[Key, dict[int, Window]], heads: dict[Key, Head]) -> Prediction:
    return {
        key: head.decode([found[key][place] for place in sorted(found[key])], item.source)
        for key, head in heads.items()
        if key in found
    }


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
