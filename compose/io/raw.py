"""The bytes of files that may be anything: missing, a pipe, or too large."""

from __future__ import annotations

import contextlib
import mmap
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from compose.errors import FileError

MAX_FILE_BYTES = 16 * 1024**3


def read_bytes(path: Path, limit: int = MAX_FILE_BYTES) -> bytes:
    """The bytes of a regular file.

    Raises:
        FileError: not there, not a regular file, unreadable, or larger than `limit`.
    """
    with _opened(path, limit) as file:
        return file.read(limit + 1)[:limit]


def map_bytes(path: Path, limit: int = MAX_FILE_BYTES) -> mmap.mmap | bytes:
    """The bytes of a regular file, mapped: each page is read from the disk once, when it is first looked at.

    What is written to them stays in this process. As with every mapping, a program that cuts the file off
    meanwhile ends this one; ours replace files by renaming, which leaves the mapping whole.

    Raises:
        FileError: as `read_bytes`.
    """
    with _opened(path, limit) as file:
        if os.fstat(file.fileno()).st_size == 0:  # cannot be mapped
            return b""
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)


@contextlib.contextmanager
def _opened(path: Path, limit: int) -> Iterator[BinaryIO]:
    """A regular file of at most `limit` bytes, open."""
    try:
        with open(path, "rb", opener=_open_plain) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise FileError("not a regular file", where=str(path))
            if status.st_size > limit:
                raise FileError(f"{status.st_size:,} bytes are more than {limit:,}", where=str(path))
            yield file
    except FileNotFoundError as error:
        raise FileError("no such file", where=str(path)) from error
    except (OSError, ValueError) as error:
        raise FileError(f"cannot be read: {_reason(error)}", where=str(path)) from error


def _open_plain(path: str, flags: int) -> int:
    # Without O_NONBLOCK the opening of a named pipe would wait for ever.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
