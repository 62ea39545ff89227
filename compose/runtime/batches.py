"""Which rows run together: rows of about one length, so that little is computed for padding."""

from __future__ import annotations

from collections.abc import Sequence

from compose.errors import Problem

CPU_TOKENS = 1024
"""Padded tokens of a batch on a CPU where nothing is said: more do not fit its caches, so that they take longer."""

DEVICE_TOKENS = 16384
"""Padded tokens of a batch elsewhere: 32 rows of 512."""

STEP_ROWS = 16
"""Rows of a step of training where nothing is said."""


def batches(lengths: Sequence[int], batch_size: int | None = None, batch_tokens: int | None = None) -> list[list[int]]:
    """Rows in batches, sorted by length; rows of one length keep their order.

    Args:
        lengths: tokens of each row.
        batch_size: the most rows of a batch; None: any number.
        batch_tokens: the most tokens of a batch, those of padding among them: its rows times its longest
            row. A row that is longer is a batch of its own. None: any number.

    Returns:
        The places of each batch's rows; every place is in one of them.

    >>> batches([5, 2, 9, 2, 4], batch_tokens=10)
    [[1, 3], [4, 0], [2]]
    >>> batches([5, 2, 9, 2, 4], batch_size=3)
    [[1, 3, 4], [0, 2]]
    """
    found: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lengths.__getitem__):
        rows = len(found[-1]) + 1 if found else 1
        full = not found or (batch_size is not None and rows > batch_size)
        if full or (batch_tokens is not None and rows * lengths[place] > batch_tokens):
            found.append([])
        found[-1].append(place)
    return found


def default_tokens(device: str) -> int:
    """The `batch_tokens` where nobody says how large batches are, by the type of the device."""
    return CPU_TOKENS if device == "cpu" else DEVICE_TOKENS


def step_limits(batch_size: int | None, batch_tokens: int | None) -> tuple[int | None, int | None]:
    """The most rows and the most tokens of a step of training."""
    return (STEP_ROWS if batch_tokens is None else None) if batch_size is None else batch_size, batch_tokens


def limit_problems(batch_size: object, batch_tokens: object) -> list[Problem]:
    """What is wrong with the limits of a batch."""
    return [
        Problem(f"{name}={value!r}, but a whole number of at least 1 is needed")
        for name, value in (("batch_size", batch_size), ("batch_tokens", batch_tokens))
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1)
    ]
