"""CoNLL's format: a word on each line with its columns, and an empty line after each sentence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from compose.errors import Problem
from compose.train.columns import Columns
from compose.train.formats.row import Format, Row, Rows
from compose.train.formats.text import lines

DOCUMENT = "-DOCSTART-"
"""What a line begins with that only says that a document begins."""

Sentence = list[tuple[str, list[str]]]
"""The place and the columns of each word."""


@dataclass(frozen=True)
class Conll(Format):
    """Words with their columns, which tabs separate in lines that have any, and spaces in others.

    A column is named by its position (from 0; -1 is the last) or by its name in `header`. Lines that begin with
    `-DOCSTART-` are no words.

    Args:
        header: the names of the columns.
        comments: what lines begin with that are no words either; None where there are no such lines.
    """

    header: tuple[str, ...] = ()
    comments: str | None = None

    def rows(self, path: Path, columns: Columns) -> Rows:
        wanted = columns.names()
        places = {name: self._place(name) for name in wanted}
        unknown = [name for name, place in places.items() if place is None]
        if unknown:
            for name in unknown:
                yield Problem(f"there is no column '{name}'", where=str(path), got=name, legal=self.header)
            return
        for sentence in self._sentences(path):
            faults = [
                Problem(f"there is no column {name}: the line has {len(cells)}", where=where, got=name)
                for where, cells in sentence
                for name, place in places.items()
                if place is not None and not -len(cells) <= place < len(cells)
            ]
            if faults:
                yield faults[0]
            else:
                found = {name: [cells[place or 0] for _, cells in sentence] for name, place in places.items()}
                yield Row(sentence[0][0], found)

    def _place(self, name: str) -> int | None:
        if name in self.header:
            return self.header.index(name)
        return int(name) if name.removeprefix("-").isdecimal() else None

    def _sentences(self, path: Path) -> Iterator[Sentence]:
        sentence: Sentence = []
        for number, line in enumerate(lines(path), 1):
            if self.comments is not None and line.startswith(self.comments):
                continue
            cells = line.rstrip("\r\n").split("\t") if "\t" in line.strip() else line.split()
            if line.strip() and cells[0] != DOCUMENT:
                sentence.append((f"{path}:{number}", [cell.strip() for cell in cells]))
            elif sentence:
                yield sentence
                sentence = []
        if sentence:
            yield sentence
