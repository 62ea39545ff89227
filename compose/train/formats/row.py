"""What a format gives: rows, each with its place, and what is wrong with those that are none."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from compose.errors import Problem
from compose.train.columns import Columns


class Row(NamedTuple):
    """A row: its place (`file:line`), and its values by column."""

    where: str
    values: Mapping[str, Any]


Rows = Iterator[Row | Problem]
"""Rows, and a problem in place of each that cannot be read."""


class Format(ABC):
    """How rows stand in a file."""

    @abstractmethod
    def rows(self, path: Path, columns: Columns) -> Rows:
        """The rows of a file.

        Args:
            path: the file.
            columns: which columns are wanted, and as what: files of text have no types of their own.

        Raises:
            FileError: the file cannot be read at all.
        """


class Part(ABC):
    """A part of a data set, such as what it has to learn from: something with rows."""

    @property
    @abstractmethod
    def where(self) -> str:
        """Where it is, for errors."""

    @abstractmethod
    def rows(self, columns: Columns) -> Rows:
        """Its rows, as `Format.rows`."""


@dataclass(frozen=True)
class FilePart(Part):
    """A part that is a file."""

    path: Path
    format: Format

    @property
    def where(self) -> str:
        return str(self.path)

    def rows(self, columns: Columns) -> Rows:
        return self.format.rows(self.path, columns)
