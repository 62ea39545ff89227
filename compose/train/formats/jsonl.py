"""A JSON object on each line."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from compose.errors import Problem
from compose.train.columns import Columns
from compose.train.formats.row import Format, Row, Rows
from compose.train.formats.text import lines


@dataclass(frozen=True)
class Jsonl(Format):
    """A JSON object on each line; empty lines are skipped."""

    def rows(self, path: Path, columns: Columns) -> Rows:
        for number, line in enumerate(lines(path), 1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            try:
                values = json.loads(line.rstrip())
            except json.JSONDecodeError as error:
                yield Problem(f"not JSON: {error.msg}", where=f"{where}:{error.colno}")
                continue
            except (ValueError, RecursionError):  # a number of thousands of digits, a thousand brackets
                yield Problem("not JSON that can be read", where=where)
                continue
            if isinstance(values, dict):
                yield Row(where, values)
            else:
                yield Problem(f"a {type(values).__name__}, but a line holds a JSON object", where=where)
