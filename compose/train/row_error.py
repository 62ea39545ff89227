"""A row of a data set that is no example."""

from __future__ import annotations

from typing import Any

from compose.errors import Problem


class RowError(Exception):
    """A row that is no example; its `problem` lacks only the row's place."""

    def __init__(self, what: str, **fields: Any) -> None:
        super().__init__(what)
        self.problem = Problem(what, **fields)


def require(holds: object, what: str, **fields: Any) -> None:
    """RowError: something that a row must be, it is not."""
    if not holds:
        raise RowError(what, **fields)
