"""The texts that cases over real text run on."""

from __future__ import annotations

import csv
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
        content = file.read_text("utf-8")
    except OSError as error:
        raise FileError(f"cannot be read: {error.strerror or error}", where=str(file)) from None
    except UnicodeDecodeError:
        raise FileError("is not UTF-8 text", where=str(file)) from None
    if file.suffix == ".jsonl":
        texts = [_of_line(line, f"{file}:{number}") for number, line in enumerate(content.splitlines(), 1) if line]
    elif file.suffix == ".csv":
        rows = csv.DictReader(content.splitlines(keepends=True))
        if COLUMN not in (rows.fieldnames or ()):
            raise FileError(f"there is no column '{COLUMN}'", where=f"{file}:1", legal=tuple(rows.fieldnames or ()))
        texts = [row[COLUMN] or "" for row in rows]
    else:
        texts = content.splitlines()
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
