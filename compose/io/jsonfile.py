"""JSON from a file that may be damaged or hostile: bounded, without duplicate keys, NaN or surprises."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

from compose.errors import FileError, Problem

MAX_JSON_BYTES = 16 * 1024 * 1024
MAX_DEPTH = 64
LFS_PREFIX = b"version https://git-lfs"


def parse_json(data: bytes, where: str | Path, limit: int = MAX_JSON_BYTES) -> Any:
    """Parse strict JSON.

    Args:
        data: the bytes of the file.
        where: the path that errors name.
        limit: the most bytes that are taken.

    Returns:
        The parsed value.

    Raises:
        FileError: too large, not UTF-8, not JSON, nested too deeply, a key twice in one object, or NaN.
    """
    where = str(where)
    if data.startswith(LFS_PREFIX):
        raise FileError(lfs_problem(where))
    if len(data) > limit:
        raise FileError(f"{len(data):,} bytes are too many for a JSON file of ours (at most {limit:,})", where=where)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = sorted({key for key in keys if keys.count(key) > 1}) if len(keys) < 1000 else ["..."]
            raise FileError(f"the key '{twice[0][:80]}' occurs twice in one object", where=where)
        return result

    def constant(text: str) -> NoReturn:
        raise FileError(f"{text} is not a number that JSON knows", where=where)

    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=unique, parse_constant=constant)
    except UnicodeDecodeError as error:
        raise FileError(f"not UTF-8 text: {error.reason} at byte {error.start}", where=where) from error
    except RecursionError as error:
        raise FileError("nested too deeply", where=where) from error
    except json.JSONDecodeError as error:
        place = f"{where}:{error.lineno}:{error.colno}"
        raise FileError(f"not valid JSON: {error.msg}", where=place) from error
    except ValueError as error:  # integers of thousands of digits
        raise FileError(f"not valid JSON: {str(error)[:200]}", where=where) from error
    if not _shallow(value):
        raise FileError(f"nested more than {MAX_DEPTH} levels deep", where=where)
    return value


def parse_object(data: bytes, where: str | Path, limit: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """`parse_json` of a file that must hold an object."""
    value = parse_json(data, where, limit)
    if not isinstance(value, dict):
        raise FileError(f"expected a JSON object, got {type(value).__name__}", where=str(where))
    return value


def dump_json(value: object) -> bytes:
    """Stable bytes: the same value always gives the same file."""
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()


def lfs_problem(where: str) -> Problem:
    """What is wrong with a Git LFS pointer."""
    return Problem(
        "this is a Git LFS pointer, not the file itself",
        where=where,
        hint="'git lfs pull' in the repository it comes from",
    )


def _shallow(value: Any) -> bool:
    """Whether `value` nests at most `MAX_DEPTH` levels, found without recursion."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for parent in level
            if isinstance(parent, (dict, list))
            for child in (parent.values() if isinstance(parent, dict) else parent)
        ]
        if not level:
            return True
    return False
