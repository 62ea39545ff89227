"""Tables as text: comma or tab separated values."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compose.errors import Problem
from compose.train.columns import Columns
from compose.train.formats.row import Format, Row, Rows
from compose.train.formats.text import lines


@dataclass(frozen=True)
class Csv(Format):
    """A row on each line, or on several where a quoted cell has line breaks.

    Args:
        delimiter: what stands between cells; by default a tab in files called `.tsv` (or `.tsv.gz`), else a comma.
        header: the names of the columns, where the first line is a row already.
        quotes: whether cells may stand in double quotes; without, a quote is a character like any other.
        separator: what stands between the members of a cell that holds a list (`tokens`, `tags`, `labels`).
    """

    delimiter: str | None = None
    header: tuple[str, ...] | None = None
    quotes: bool = True
    separator: str = " "

    def rows(self, path: Path, columns: Columns) -> Rows:
        header = self.header
        for number, cells in self._records(path):
            where = f"{path}:{number}"
            if isinstance(cells, Problem):
                yield cells
            elif not cells:
                continue
            elif header is None:
                header = tuple(cells)
                twice = sorted({name for name in header if header.count(name) > 1})
                if twice:
                    yield Problem(f"two columns are called '{twice[0]}'", where=where)
                    return
            elif len(cells) != len(header):
                hint = "" if self.quotes else "quotes: true, if cells stand in quotes"
                what = f"{len(cells)} cells, but there are {len(header)} columns"
                yield Problem(what, where=where, hint=hint)
            else:
                yield Row(where, self._values(dict(zip(header, cells, strict=True)), columns))

    def _records(self, path: Path) -> Iterator[tuple[int, list[str] | Problem]]:
        """The cells of each record, with the number of its first line."""
        tabs = ".tsv" in path.suffixes[-2:]
        reader = csv.reader(
            lines(path),
            delimiter=self.delimiter or ("\t" if tabs else ","),
            quoting=csv.QUOTE_MINIMAL if self.quotes else csv.QUOTE_NONE,
            strict=True,
        )
        while True:
            number = reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                hint = "quotes: false, if quotes are characters like any other" if self.quotes else ""
                yield number, Problem(f"not a row: {error}", where=f"{path}:{number}", hint=hint)
                return  # what follows is read as a part of it
            yield number, cells

    def _values(self, cells: dict[str, Any], columns: Columns) -> dict[str, Any]:
        """Cells as what their columns hold."""
        for name in (columns.tokens, columns.tags, columns.labels):
            if name in cells:
                parts = cells[name].split() if self.separator == " " else cells[name].split(self.separator)
                cells[name] = [part.strip() for part in parts if part.strip()]
        if columns.score in cells:
            cells[columns.score] = _number(cells[columns.score])
        return cells


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
