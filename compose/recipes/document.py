"""A recipe as plain data that remembers where everything in it stands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compose.errors import Problem

KeyPath = tuple[str | int, ...]
"""The way to a value: keys of mappings and positions in lists."""


@dataclass(frozen=True)
class Place:
    """Where a key or a value stands.

    Args:
        source: the file's name, or the override.
        line: counted from 1; 0 where there is no line.
        column: counted from 1.
        text: the source line.
        width: number of characters to mark.
    """

    source: str
    line: int
    column: int
    text: str
    width: int = 1

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}" if self.line else self.source

    @property
    def folder(self) -> Path:
        """Where relative paths that stand here begin: beside the file; for an override where the command runs."""
        return Path(self.source).parent if self.line else Path()

    def problem(self, what: str, **fields: Any) -> Problem:
        """A problem at this place, with the source line marked."""
        start = self.column - 1
        return Problem(what, where=str(self), text=self.text, span=(start, start + self.width), **fields)


@dataclass(frozen=True)
class Document:
    """A recipe as plain data.

    Args:
        source: the name of the file it came from.
        text: the text as given.
        data: mappings, lists and scalars.
        keys: the place of the key (or list item) at each path.
        values: the place of the value at each path.
        included: the name and text of each file that it includes.
    """

    source: str
    text: str
    data: Any
    keys: dict[KeyPath, Place]
    values: dict[KeyPath, Place]
    included: tuple[tuple[str, str], ...] = ()

    def place(self, path: KeyPath, key: bool = False) -> Place:
        """The place of the value (or `key`) at `path`, or of the nearest thing around it."""
        for length in range(len(path), -1, -1):
            known = (self.keys if key and length == len(path) else self.values).get(path[:length])
            if known is None:
                known = self.keys.get(path[:length])
            if known is not None:
                return known
        return Place(self.source, 1, 1, self.text.split("\n", 1)[0])


def dotted(path: KeyPath) -> str:
    """A path as people write it.

    >>> dotted(("train", 0, "epochs"))
    'train.0.epochs'
    """
    return ".".join(map(str, path))
