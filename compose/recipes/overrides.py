"""`--set a.b=1`: values that replace or add to those of a recipe."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from compose.errors import Problem, RecipeError
from compose.recipes.document import Document, KeyPath, Place
from compose.recipes.loader import load_text


def apply_overrides(document: Document, overrides: Sequence[str]) -> Document:
    """A recipe with some values replaced.

    Keys are joined by dots, list items named by their position: `train.0.epochs=3`. A name that
    has dots itself is found as it is. The value is read as the recipe's own values are, so `5e-5`
    is a number and `[0, 1]` a list. Keys that the recipe lacks are added; whether they are legal is
    for the schema to say, which then names the override.

    Args:
        document: the recipe as read.
        overrides: `key=value` each; later ones win.

    Returns:
        The changed recipe; the given one stays as it is.

    Raises:
        RecipeError: an override that cannot be read or leads nowhere.
    """
    changed = replace(
        document, data=copy.deepcopy(document.data), keys=dict(document.keys), values=dict(document.values)
    )
    problems: list[Problem] = []
    for override in overrides:
        problems += _apply(changed, override)
    if problems:
        raise RecipeError(problems)
    return changed


def _apply(document: Document, override: str) -> list[Problem]:
    source = f"--set {override}"
    name, equals, text = override.partition("=")
    at_name = Place(source, 0, 1, override, max(1, len(name)))
    if not equals or not name.strip():
        return [at_name.problem("not an override", hint="write KEY=VALUE, such as train.0.epochs=3")]
    try:
        value = load_text(text, source) if text.strip() else None
    except RecipeError as error:
        why = error.problems[0].what
        return [Place(source, 0, len(name) + 2, override, len(text)).problem("the value cannot be read", why=why)]
    path: KeyPath = ()
    target, rest = document.data, name.strip()
    while True:
        step = _step(target, rest)
        if step is None:
            return [_leads_nowhere(target, path, rest, at_name)]
        key, rest = step
        path = (*path, key)
        document.keys.setdefault(path, at_name)
        if not rest:
            break
        inner = target[key] if not isinstance(target, dict) or key in target else None
        if inner is None:
            inner = target[key] = {}
            document.values[path] = at_name
        target = inner
    _forget(document, path)
    target[path[-1]] = value.data if value else None
    at_value = Place(source, 0, len(name) + 2, override, max(1, len(text)))
    document.keys[path] = at_name
    document.values[path] = at_value
    for inside in [inside for inside in value.values if inside] if value else ():
        document.values[*path, *inside] = document.keys[*path, *inside] = at_value
    return []


def _step(target: Any, rest: str) -> tuple[str | int, str] | None:
    """The first key of a dotted name, and the rest of it."""
    if isinstance(target, list):
        head, _, tail = rest.partition(".")
        return (int(head), tail) if head.isdecimal() and int(head) < len(target) else None
    if not isinstance(target, dict):
        return None
    for key in sorted(target, key=len, reverse=True):  # a name may have dots itself
        if rest == key or rest.startswith(f"{key}."):
            return key, rest[len(key) + 1 :]
    head, _, tail = rest.partition(".")
    return (head, tail) if head else None


def _leads_nowhere(target: Any, path: KeyPath, rest: str, place: Place) -> Problem:
    around = ".".join(map(str, path)) or "the recipe"
    if isinstance(target, list):
        last = len(target) - 1
        return place.problem(f"{around} is a list: {rest.split('.')[0]!r} is none of 0 to {last}")
    return place.problem(f"{around} is a single value, so there is no {rest!r} in it")


def _forget(document: Document, path: KeyPath) -> None:
    """Drops the places of what an override replaces."""
    for places in (document.keys, document.values):
        for known in [known for known in places if known[: len(path)] == path]:
            del places[known]
