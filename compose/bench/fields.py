"""What a file of figures must hold to be printed or made a page of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

NUMBER = (int, float)
NAMES = {str: "text", NUMBER: "number", int: "whole number", bool: "true or false", dict: "object", list: "list"}


class Each(NamedTuple):
    """Every value of a mapping, or every item of a list, has these fields."""

    of: type
    fields: Any


class Depending(NamedTuple):
    """The fields of what has the field `mark`, and of what has not."""

    mark: str
    with_it: Any
    without: Any


TARGET = {"of": str, "at_most": NUMBER, "against": str, "metric": str, "speed": bool}
JUDGED = {**TARGET, "value": NUMBER, "value_of_minima": NUMBER, "reached": bool}
CONTESTANT = {"by": str}
MEASURED = {**CONTESTANT, "minimum": NUMBER, "median": NUMBER, "peak": NUMBER, "facts": dict, "options": dict}

CASE = {
    "name": str,
    "shows": str,
    "rows": int,
    "tokens": int,
    "training": bool,
    "rounds": int,
    "calls": int,
    "contestants": Each(dict, Depending("median", MEASURED, CONTESTANT)),
    "targets": Each(list, Depending("value", JUDGED, TARGET)),
}
"""Of one that is measured, fields with it and fields without it: a contestant may have failed."""

DOCUMENT = {
    "date": str,
    "command": str,
    "machine": {"cpu": str, "cores": int, "instructions": list, "memory": NUMBER, "system": str},
    "versions": Each(dict, dict),
    "threads": int,
    "device": str,
    "cases": Each(list, CASE),
}


def faults(value: Any, wanted: Any = DOCUMENT, where: str = "") -> Iterator[str]:
    """What is missing of a value, or is something else, each with its place."""
    if isinstance(wanted, Depending):
        wanted = wanted.with_it if isinstance(value, Mapping) and wanted.mark in value else wanted.without
    kind: Any = wanted.of if isinstance(wanted, Each) else dict if isinstance(wanted, Mapping) else wanted
    if not isinstance(value, kind):
        yield f"{where} is no {NAMES[kind]}"
    elif isinstance(wanted, Each):
        for name, item in value.items() if kind is dict else enumerate(value):
            yield from faults(item, wanted.fields, f"{where}.{name}")
    elif isinstance(wanted, Mapping):
        for name, inner in wanted.items():
            place = f"{where}.{name}" if where else name
            if name in value:
                yield from faults(value[name], inner, place)
            else:
                yield f"{place} is missing"
