"""Folders for other libraries: these know no redo log, so every file is complete before the first is renamed."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from compose.errors import FileError
from compose.io.detect import Format, Kind, detect
from compose.io.view import NEW

Files = list[tuple[str, bytes]]
"""Names, relative and with `/`, and bytes."""


def export(folder: str | Path, files: Files, form: Format, kind: Kind, replaced: Iterable[str] = ()) -> None:
    """Write files for another library.

    Each is written beside its place and renamed when all are there, in order: configs come last. A crash between
    two renames can leave new weights beside an old config; what reads them then says that they do not fit.

    Args:
        folder: created if need be.
        files: what to write.
        form: in whose format.
        kind: what they are.
        replaced: names of other files that they take the place of.

    Raises:
        FileError: the folder has one of that kind in another format already, or cannot be written.
    """
    folder = Path(folder)
    if "\0" in str(folder):
        raise FileError("the name of a folder cannot have a NUL", where=repr(str(folder))[:200])
    _require_free(folder, form, kind)
    written: list[Path] = []
    try:
        for name, data in files:
            path = folder / (name + NEW)
            path.parent.mkdir(parents=True, exist_ok=True)
            written.append(path)
            with open(path, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        for path in written:
            os.replace(path, path.with_name(path.name.removesuffix(NEW)))
        for name in replaced:
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        for path in written:
            path.unlink(missing_ok=True)
        raise FileError(f"cannot be saved: {error.strerror or error}", where=str(folder)) from error


def _require_free(folder: Path, form: Format, kind: Kind) -> None:
    try:
        there = detect(folder).kinds if folder.exists() else {}
    except FileError:  # nothing of any format
        return
    if there.get(kind, form) != form:
        raise FileError(
            f"holds the same kind of thing ({kind}) in the {there[kind]} format",
            where=str(folder),
            why="their files have the same names, or could not be told apart",
            hint="another folder",
        )
