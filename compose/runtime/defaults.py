"""Which plan `model(...)` runs: the one in use on this thread, else the active one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from compose.dsl import Expression


class _Using(threading.local):
    """What `model.using` chose on this thread, the last first: pairs of a model's id and an expression."""

    stack: tuple[tuple[int, Expression], ...] = ()


_using = _Using()


@contextmanager
def use(model: Any, expression: Expression) -> Iterator[None]:
    """Chooses an expression for a model on this thread, for a while."""
    before = _using.stack
    _using.stack = ((id(model), expression), *before)
    try:
        yield
    finally:
        _using.stack = before


def default_plan(model: Any, active: Expression) -> Expression:
    """The expression that a model runs on this thread."""
    for owner, expression in _using.stack:
        if owner == id(model):
            return expression
    return active
