"""The file of figures: written whole or not at all, and read back."""

from __future__ import annotations

import json
import os
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from compose.bench.fields import faults
from compose.bench.machine import machine, now, versions
from compose.bench.measure import Settings
from compose.errors import FileError, Problem

FORMAT = "compose-bench-1"


def document(
    cases: Sequence[Mapping[str, Any]], settings: Settings, peer: Mapping[str, str] | None, command: str, note: str = ""
) -> dict[str, Any]:
    """What is known of a measurement, as JSON takes it."""
    gpus = [one["gpu"] for case in cases for one in case["contestants"].values() if "gpu" in one]
    return {
        "format": FORMAT,
        "date": now(),
        "command": command,
        "note": note,
        "machine": {**machine(), **({"gpu": gpus[0]} if gpus else {})},
        "versions": {"ours": versions(), **({"peer": dict(peer)} if peer else {})},
        "threads": settings.threads,
        "device": settings.device,
        "cases": list(cases),
    }


def command_line(words: Sequence[str]) -> str:
    """A command without the places of one machine: files by their names, the peer's interpreter as PEER."""
    shown = ["PEER" if before == "--peer" else word for before, word in zip(["", *words], words, strict=False)]
    return shlex.join(["compose", *(Path(word).name if os.sep in word else word for word in shown)])


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes a value as JSON, whole or not at all.

    Raises:
        FileError: it cannot be written.
    """
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a file under another name and moves it to its place.

    Raises:
        FileError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        try:
            with open(temporary, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise FileError(f"cannot be written: {error.strerror or error}", where=str(path)) from None


def check_writable(path: Path) -> None:
    """Says before anything is measured that a file could not be written.

    Raises:
        FileError: its folder does not exist or takes no files, or it is a folder itself.
    """
    if path.is_dir() or not path.resolve().parent.is_dir():
        raise FileError("is a folder" if path.is_dir() else "its folder does not exist", where=str(path))
    try:
        with tempfile.TemporaryFile(dir=path.resolve().parent):
            pass
    except OSError as error:
        raise FileError(f"cannot be written: {error.strerror or error}", where=str(path)) from None


def read_json(path: Path) -> dict[str, Any]:
    """A file of figures.

    Raises:
        FileError: it cannot be read, is something else, or lacks fields.
    """
    try:
        found = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise FileError(f"cannot be read: {error.strerror or error}", where=str(path)) from None
    except ValueError:
        raise FileError("is not JSON", where=str(path)) from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise FileError("holds no figures of compose bench", where=str(path), hint="compose bench --json FILE")
    problems = [Problem(fault, where=str(path)) for fault in faults(found)]
    if problems:
        raise FileError(problems)
    return found
