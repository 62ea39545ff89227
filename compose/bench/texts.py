"""The texts that cases over real text run on."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from compose.errors import FileError
from compose.recipes.shipped import home

COLUMN = "text"
BUNDLED = 1000
"""Texts where no file is given: those of the bundled messages, repeated."""


def read_texts(file: Path) -> list[str]:
    """The texts of a file: of .jsonl and .csv the field `text`, else each line.

    Raises:
        FileError: it cannot be read, or holds no texts.
    """
    try:
        content = file.read_text("utf-8-sig")
    except OSError as error:
        raise FileError(f"cannot be read: {error.strerror or error}", where=str(file)) from None
    except UnicodeDecodeError:
        raise FileError("is not UTF-8 text", where=str(file)) from None
    lines = content.split("\n")  # not where else Python sees an end: JSON may hold those as they are
    if file.suffix == ".jsonl":
        texts = [_of_line(line, f"{file}:{number}") for number, line in enumerate(lines, 1) if line.strip()]
    elif file.suffix == ".csv":
        texts = _of_table(content, str(file))
    else:
        texts = lines
    texts = [text for text in texts if text.strip()]
    if not texts:
        raise FileError("holds no texts", where=str(file))
    return texts


def bundled_texts(count: int = BUNDLED) -> list[str]:
    """The bundled messages, repeated until there are so many."""
    messages = [record[COLUMN] for part in ("train", "test") for record in bundled(part)]
    return [messages[index % len(messages)] for index in range(count)]


def bundled(part: str) -> list[dict[str, Any]]:
    """The bundled messages with their labels, `train` or `test`."""
    path = home() / "data" / "messages" / f"{part}.jsonl"
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def _of_line(line: str, where: str) -> str:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise FileError(f"not JSON: {error.msg}", where=where) from None
    if not isinstance(record, dict) or not isinstance(record.get(COLUMN), str):
        raise FileError(f"a line is a JSON object with a '{COLUMN}'", where=where)
    text: str = record[COLUMN]
    return text


def _of_table(content: str, where: str) -> list[str]:
    rows = csv.DictReader(io.StringIO(content, newline=""))
    try:
        if COLUMN not in (rows.fieldnames or ()):
            raise FileError(f"there is no column '{COLUMN}'", where=f"{where}:1", legal=tuple(rows.fieldnames or ()))
        return [row[COLUMN] or "" for row in rows]
    except csv.Error as error:
        raise FileError(f"not CSV: {error}", where=f"{where}:{rows.line_num}") from None
