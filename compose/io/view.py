"""What a folder holds, a save that was cut short included: see `store`, which writes such folders."""

from __future__ import annotations

import re
from collections.abc import Callable
from mmap import mmap
from pathlib import Path
from typing import Any, TypeVar

from compose.errors import FileError
from compose.io.jsonfile import MAX_JSON_BYTES, parse_object
from compose.io.raw import MAX_FILE_BYTES, map_bytes, read_bytes

Data = TypeVar("Data")

JOURNAL = ".commit.json"
"""The list of what a save writes and removes, there until all is in its place."""

FOLDERS = ("adapters", "fusions", "heads")
"""The folders inside that of a composition."""

NEW = ".new"
"""What the names of files end with that a save has not put in their place yet."""

FOLDER = r"[A-Za-z0-9_+~-][A-Za-z0-9_+~.-]{0,119}"
"""The legal names of folders inside."""

_FILE = r"(?:adapter|fusion|head|composition)\.(?:safetensors|json)"
MEMBER = re.compile(rf"(?:(?:{'|'.join(FOLDERS)})/{FOLDER}/)?{_FILE}")
"""The names of files that we write, with the folder inside that they are in."""


class View:
    """What a folder holds, a commit that was cut short included.

    Args:
        path: the folder.

    Raises:
        FileError: no such folder, or a damaged `.commit.json`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            if not self.path.is_dir():
                raise FileError("no such folder", where=str(path))
        except (OSError, ValueError) as error:  # names with NUL or of 10,000 characters
            raise FileError(f"not a folder: {error}", where=str(path)[:200]) from error
        self.pending, self.removed = journal(self.path)

    def file(self, name: str) -> Path:
        """Where the current version of the file `name` is."""
        new = self.path / (name + NEW)
        return new if name in self.pending and new.exists() else self.path / name

    def has(self, name: str) -> bool:
        """Whether the current version has a file `name`."""
        return name not in self.removed and self.file(name).is_file()

    def read(self, name: str, limit: int = MAX_FILE_BYTES) -> bytes:
        """The bytes of the file `name`."""
        return self._current(name, lambda path: read_bytes(path, limit))

    def map(self, name: str) -> mmap | bytes:
        """The same, mapped into memory."""
        return self._current(name, map_bytes)

    def _current(self, name: str, take: Callable[[Path], Data]) -> Data:
        if name in self.removed:
            raise FileError("no such file", where=str(self.path / name))
        try:
            return take(self.file(name))
        except FileError:
            # Another process may have renamed NAME.new between the look and the reading.
            if name in self.pending and (self.path / name).is_file():
                return take(self.path / name)
            raise

    def manifest(self, name: str) -> dict[str, Any]:
        """The JSON object in the file `name`."""
        return parse_object(self.read(name, MAX_JSON_BYTES), self.path / name)


def journal(folder: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names that a commit in progress writes and removes."""
    path = folder / JOURNAL
    try:
        data = read_bytes(path, MAX_JSON_BYTES) if path.exists() else b""
    except FileError:
        data = b"" if not path.exists() else read_bytes(path, MAX_JSON_BYTES)  # finished meanwhile
    if not data:
        return (), ()
    content = parse_object(data, path)
    lists = [content.get("files"), content.get("removed")]
    for names in lists:
        if not isinstance(names, list):
            raise FileError("not a list of the files of a save", where=str(path))
        for name in names:
            check_member(name, folder)
    return tuple(lists[0]), tuple(lists[1])  # type: ignore[arg-type]


def check_member(name: object, folder: Path) -> None:
    """Refuse what is not the name of a file that we write."""
    if not isinstance(name, str) or not MEMBER.fullmatch(name):
        raise FileError(f"'{str(name)[:200]}' is not the name of a file of ours", where=str(folder))
