"""What heads over the vocabulary say of the tokens of texts: those that are masked, or that follow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from compose.heads.spec import IGNORED
from compose.heads.vocabulary import VocabularyHead, counted_only
from compose.runtime.batches import batches, default_tokens
from compose.runtime.predict import evaluation
from compose.runtime.rows import route_names
from compose.train.collator import TaskCollator
from compose.train.data import Example
from compose.train.rows import row_groups

if TYPE_CHECKING:
    from compose.runtime.runnable import RunnablePlan

Told = tuple[int, float]
"""Of a token the likeliest id, and the cross entropy of the one that is right."""

Tokens = tuple[list[tuple[int, ...]], list[tuple[Told, ...]]]
"""Of each text the tokens that count, and what was said of them."""


def answer_tokens(
    plan: RunnablePlan,
    task: str,
    examples: Sequence[Example],
    batch_size: int | None = None,
    batch_tokens: int | None = None,
    stride: int | None = None,
) -> Tokens:
    """What a plan says of the tokens of texts; masks fall on the same ones each time, whatever plan and seed.

    Args:
        plan: what to run.
        task: of a head over the vocabulary.
        examples: the texts.
        batch_size: the most rows at a time.
        batch_tokens: the most tokens at a time; where neither is given, as in `plan.predict`.
        stride: reads what is too long in windows that overlap by so many tokens; else it is cut.
    """
    model, head = plan.model, plan.model.heads[task]
    assert isinstance(head, VocabularyHead)
    (group,) = row_groups(model, {task: examples}, stride)
    rows = [group.drawn(place, 0, 0) for place in range(len(group.rows))]
    if batch_size is None and batch_tokens is None:
        batch_tokens = default_tokens(model.device.type)
    lengths = [len(row["input_ids"]) for row in rows]
    order = [list(range(len(rows)))] if plan.together else batches(lengths, batch_size, batch_tokens)
    collate = TaskCollator(model.tokenizer, {task: head})
    gold: list[tuple[int, ...]] = [()] * len(rows)
    said: list[tuple[Told, ...]] = [()] * len(rows)
    with evaluation(model), counted_only([head]), torch.no_grad():
        for places in order:
            batch = collate([rows[place] for place in places])
            labels = batch.pop("labels")
            inputs = {name: value.to(model.device) for name, value in batch.items()}
            route = [task] * len(places) if route_names(plan.plan) else None
            output = plan(**inputs, labels=labels, tasks=[task], route=route)[task]
            assert output.logits is not None
            own = range(len(places)) if output.rows is None else output.rows.tolist()
            targets = head.aligned(labels[task][list(own)])
            counts = targets != IGNORED
            right = targets[counts].to(model.device)
            loss = F.cross_entropy(output.logits.float(), right, reduction="none").tolist()
            told = iter(zip(output.logits.argmax(-1).tolist(), loss, strict=True))
            for row, ids, there in zip(own, targets, counts, strict=True):
                gold[places[row]] = tuple(ids[there].tolist())
                said[places[row]] = tuple(next(told) for _ in gold[places[row]])
    return gold, said
