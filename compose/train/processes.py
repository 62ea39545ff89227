"""Which of several processes this is, where `torchrun` or `accelerate launch` started it."""

from __future__ import annotations

import os


def rank() -> int:
    """The number of this process; the first, 0, is the one that writes."""
    return int(os.environ.get("RANK", "0"))


def world() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this process writes files and says what happens."""
    return rank() == 0
