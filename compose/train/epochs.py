"""Which rows each step trains on: every row once an epoch, in an order that the seed decides."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence

from compose.runtime.batches import batches

POOL = 8
"""Batches within which rows are sorted by length."""

Step = tuple[int, list[int]]
"""The rows of a step: their group, and their places in it."""


def epochs(
    lengths: Sequence[Sequence[int]],
    count: int,
    seed: int,
    batch_size: int | None = None,
    batch_tokens: int | None = None,
) -> Iterator[list[Step]]:
    """The steps of each epoch, in random order; for the same seed the same ones.

    Rows are drawn at random in pools of some batches and sorted by length within each pool, so that
    a batch has rows of about one length and little padding. Under a token budget the number of steps
    is another one in each epoch.

    Args:
        lengths: tokens of each row, by group.
        count: how many epochs.
        seed: of the order.
        batch_size: the most rows of a step; None: any number.
        batch_tokens: the most tokens of a step, padding among them; None: any number.
    """
    order = random.Random(seed)
    for _ in range(count):
        steps: list[Step] = []
        for group, each in enumerate(lengths):
            places = list(range(len(each)))
            order.shuffle(places)
            size = POOL * _rows_of_a_batch(each, batch_size, batch_tokens)
            for start in range(0, len(places), size):
                pool = places[start : start + size]
                found = batches([each[place] for place in pool], batch_size, batch_tokens)
                steps += [(group, [pool[index] for index in batch]) for batch in found]
        order.shuffle(steps)
        yield steps


def _rows_of_a_batch(lengths: Sequence[int], batch_size: int | None, batch_tokens: int | None) -> int:
    """About how many rows a batch has."""
    rows = len(lengths) if batch_size is None else batch_size
    if batch_tokens is not None:
        rows = min(rows, math.ceil(batch_tokens * len(lengths) / max(1, sum(lengths))))
    return max(1, rows)
