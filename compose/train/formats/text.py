"""Lines of text files, compressed by gzip or not."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

from compose.errors import FileError


def lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 file with their ends; a file called `*.gz` is decompressed.

    Raises:
        FileError: it cannot be read, is not UTF-8, or is damaged.
    """
    try:
        # newline="": what a line is, the format says. A byte order mark, which spreadsheets write, is no text.
        if path.suffix == ".gz":
            with gzip.open(path, "rt", encoding="utf-8-sig", newline="") as file:
                yield from file
        else:
            with open(path, encoding="utf-8-sig", newline="") as file:
                yield from file
    except UnicodeDecodeError as error:
        raise FileError(f"not UTF-8: {error.reason}", where=str(path)) from None
    except gzip.BadGzipFile:
        raise FileError("is called .gz, but is not compressed by gzip", where=str(path)) from None
    except (EOFError, zlib.error):
        raise FileError("is damaged: its compressed content breaks off or is no such thing", where=str(path)) from None
    except OSError as error:
        raise FileError(f"cannot be read: {error.strerror or error}", where=str(path)) from None
