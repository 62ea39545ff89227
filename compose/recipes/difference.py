"""What two recipes say differently, key by key."""

from __future__ import annotations

import json
from typing import Any

from compose.recipes.document import KeyPath, dotted
from compose.recipes.resolved import plain
from compose.recipes.schema import Recipe


def differences(first: Recipe, second: Recipe) -> list[str]:
    """The keys in which two recipes differ, defaults among them, a line each: `- key: old`, `+ key: new`.

    Args:
        first: a recipe.
        second: another.
    """
    old, new = (dict(_flat(plain(recipe), ())) for recipe in (first, second))
    lines = []
    for path in dict.fromkeys((*old, *new)):
        if old.get(path) != new.get(path):
            lines += [f"{sign} {dotted(path)}: {said[path]}" for sign, said in (("-", old), ("+", new)) if path in said]
    return lines


def _flat(value: Any, path: KeyPath) -> list[tuple[KeyPath, str]]:
    """All single values by their paths; short lists of such are one value."""
    if isinstance(value, dict):
        return [found for key, inner in value.items() for found in _flat(inner, (*path, key))]
    if isinstance(value, list) and any(isinstance(inner, dict) for inner in value):
        return [found for number, inner in enumerate(value) for found in _flat(inner, (*path, number))]
    return [(path, json.dumps(value, ensure_ascii=False))]
