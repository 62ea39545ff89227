"""PEFT's patterns: which modules a key of `rank_pattern` means, and which modules a list of names means.

Patterns of PEFT's are regular expressions. Those of a file are of unknown origin, and one can be written that takes
hours to match: only plain names are taken, with an anchor in front and escaped dots as PEFT itself writes them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

from compose.errors import FileError

Value = TypeVar("Value")

_PLAIN = re.compile(r"\^?(?:[\w-]|\\?\.)+")


def check_patterns(patterns: object, option: str, where: str) -> dict[str, float]:
    """A table of plain names and positive numbers.

    Raises:
        FileError: it is none, or has another kind of pattern.
    """
    if patterns is None:
        return {}
    if not isinstance(patterns, Mapping):
        raise FileError(f"'{option}' is not a table of modules and numbers", where=where)
    for pattern, value in patterns.items():
        if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
            raise FileError(f"{option}[{pattern!r}] is {value!r}, not a number above 0", where=where)
        if not _PLAIN.fullmatch(pattern):
            raise FileError(
                f"{option} has the pattern {pattern[:80]!r}",
                where=where,
                why="only plain names of modules are read: a regular expression from a file is not run",
                hint="the modules' names in its place",
            )
    return dict(patterns)


def find(patterns: Mapping[str, Value], module: str, default: Value) -> Value:
    """The value of the first pattern that means a module.

    >>> find({"attn.c_attn": 16}, "h.0.attn.c_attn", 8), find({"^attn.c_attn": 16}, "h.0.attn.c_attn", 8)
    (16, 8)
    """
    for pattern, value in patterns.items():
        name = pattern.replace("\\.", ".")
        if module == name.removeprefix("^") or (not name.startswith("^") and module.endswith(f".{name}")):
            return value
    return default


def short_names(paths: Iterable[str], modules: Iterable[str]) -> list[str]:
    """Names that mean exactly some modules where PEFT takes each as the end of a path.

    Args:
        paths: the modules that are meant.
        modules: all modules of the backbone.

    Returns:
        What follows the last number in each path if that means no other module, else the paths themselves.

    >>> every = ["h.0.attn", "h.1.attn"]
    >>> short_names(every, every), short_names(["h.0.attn"], every)
    (['attn'], ['h.0.attn'])
    """
    wanted = set(paths)
    tails = {re.sub(r"^.*\.\d+\.", "", path) for path in wanted}
    meant = {each for each in modules if any(each == tail or each.endswith(f".{tail}") for tail in tails)}
    return sorted(tails if meant == wanted else wanted)
