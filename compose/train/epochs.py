"""Which rows each step trains on: every row once an epoch, in an order that the seed decides."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence

from compose.runtime.batches import batches

POOL = 8
"""Batches within which rows are sorted by length."""

PROPORTIONAL = 1.0
"""The temperature at which every row is seen once an epoch."""

UNIFORM = math.inf
"""The temperature at which each group has as many steps as any other."""

Step = tuple[int, list[int]]
"""The rows of a step: their group, and their places in it."""


def epochs(
    lengths: Sequence[Sequence[int]],
    count: int,
    seed: int,
    batch_size: int | None = None,
    batch_tokens: int | None = None,
    temperature: float = PROPORTIONAL,
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
        temperature: a group of n rows has steps in proportion to n^(1/temperature); at any but 1 an epoch has about
            as many steps as at 1, of a small group's rows some are seen several times, and of a large one's some later.
    """
    order = random.Random(seed)
    left: list[list[list[int]]] = [[] for _ in lengths]
    wanted: list[int] = []
    for _ in range(count):
        steps: list[Step] = []
        for group, each in enumerate(lengths):
            if temperature == PROPORTIONAL:
                steps += [(group, places) for places in _once(each, order, batch_size, batch_tokens)]
                continue
            if not wanted:
                left = [_once(other, order, batch_size, batch_tokens) for other in lengths]
                wanted = _shared_out(sum(map(len, left)), [len(other) for other in lengths], temperature)
            while len(left[group]) < wanted[group]:
                left[group] += _once(each, order, batch_size, batch_tokens)
            steps += [(group, places) for places in left[group][: wanted[group]]]
            del left[group][: wanted[group]]
        order.shuffle(steps)
        yield steps


def _once(
    lengths: Sequence[int], order: random.Random, batch_size: int | None, batch_tokens: int | None
) -> list[list[int]]:
    """The places of all rows of a group in batches."""
    places = list(range(len(lengths)))
    order.shuffle(places)
    size = POOL * _rows_of_a_batch(lengths, batch_size, batch_tokens)
    found: list[list[int]] = []
    for start in range(0, len(places), size):
        pool = places[start : start + size]
        drawn = batches([lengths[place] for place in pool], batch_size, batch_tokens)
        found += [[pool[index] for index in batch] for batch in drawn]
    return found


def _shared_out(steps: int, rows: Sequence[int], temperature: float) -> list[int]:
    """How many of an epoch's steps each group has, at least one.

    >>> _shared_out(100, [900, 100], UNIFORM), _shared_out(100, [900, 100], 2.0)
    ([50, 50], [75, 25])
    """
    weights = [count ** (1 / temperature) for count in rows]
    return [max(1, round(steps * weight / sum(weights))) for weight in weights]


def _rows_of_a_batch(lengths: Sequence[int], batch_size: int | None, batch_tokens: int | None) -> int:
    """About how many rows a batch has."""
    rows = len(lengths) if batch_size is None else batch_size
    if batch_tokens is not None:
        rows = min(rows, math.ceil(batch_tokens * len(lengths) / max(1, sum(lengths))))
    return max(1, rows)
