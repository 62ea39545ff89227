"""A sweep's members: a recipe for each choice of one value a key."""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from compose.errors import Problem, RecipeError
from compose.recipes.document import Document, Place
from compose.recipes.overrides import apply_overrides

MOST = 256
"""Members that a sweep may have."""

SWEEP = "sweep"
FIXED = ("recipe", "name", SWEEP)
"""Keys that all members share."""

OTHER_LETTERS = re.compile(r"[^A-Za-z0-9_.=,+-]+")


@dataclass(frozen=True)
class Member:
    """One recipe of a sweep.

    Args:
        name: of its folder: its number, and what is its own.
        values: by key, what is its own.
        places: where these values stand in the sweep.
        document: the recipe with these values, each at its place in the sweep.
    """

    name: str
    values: Mapping[str, Any]
    places: tuple[Place, ...]
    document: Document

    def overrides(self) -> tuple[str, ...]:
        """What makes the recipe this member, as `--set` takes it."""
        return (f"{SWEEP}={{}}", *(_override(key, value) for key, value in self.values.items()))

    def told(self, problem: Problem) -> Problem:
        """A problem of this member: one that does not stand at a value of its own says which these are."""
        lines = {str(place).rsplit(":", 1)[0] for place in self.places}
        if problem.where.rsplit(":", 1)[0] in lines:
            return problem
        what = ", ".join(f"{key}={_shown(value)}" for key, value in self.values.items())
        return replace(problem, why=f"with {what}" + (f": {problem.why}" if problem.why else ""))


def members(document: Document, sweep: Mapping[str, Sequence[Any]]) -> list[Member]:
    """The members of a recipe's sweep, the last key's values varying fastest.

    Args:
        document: the recipe.
        sweep: values by key.

    Raises:
        RecipeError: too many of them, or keys that lead nowhere or cannot vary.
    """
    if not sweep:
        return []
    count = math.prod(map(len, sweep.values()))
    problems = []
    if count > MOST:
        place = document.place((SWEEP,), key=True)
        problems.append(place.problem(f"{count} members, but a sweep has at most {MOST}", hint="fewer values"))
    for key in sweep:
        if key.split(".")[0] in FIXED:
            problems.append(document.place((SWEEP, key), key=True).problem(f"'{key}' is the same for all members"))
    if problems:
        raise RecipeError(problems)
    plain = _without_sweep(document)
    found = []
    for number, places in enumerate(product(*(range(len(values)) for values in sweep.values())), 1):
        values = {key: sweep[key][place] for key, place in zip(sweep, places, strict=True)}
        at = {
            f"--set {_override(key, values[key])}": document.place((SWEEP, key, place))
            for key, place in zip(sweep, places, strict=True)
        }
        try:
            changed = apply_overrides(plain, [source.removeprefix("--set ") for source in at])
        except RecipeError as error:
            raise RecipeError([_moved(problem, at) for problem in error.problems]) from None
        keys, inside = (
            {path: at.get(place.source, place) for path, place in known.items()}
            for known in (changed.keys, changed.values)
        )
        name = _name(number, count, values)
        found.append(Member(name, values, tuple(at.values()), replace(changed, keys=keys, values=inside)))
    return found


def _moved(problem: Problem, at: Mapping[str, Place]) -> Problem:
    """A problem with an override, at the value of the sweep that it came from."""
    here = at[problem.where].problem(problem.what)
    return replace(problem, where=here.where, text=here.text, span=here.span)


def _override(key: str, value: Any) -> str:
    return f"{key}={json.dumps(value, ensure_ascii=False)}"


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _name(number: int, count: int, values: Mapping[str, Any]) -> str:
    """The name of a member's folder.

    >>> _name(3, 12, {"train.0.learning_rate": 1e-4, "adapters.a.method": "lora"})
    '03-learning_rate=0.0001,method=lora'
    """
    told = ",".join(f"{key.rsplit('.', 1)[-1]}={_shown(value)}" for key, value in values.items())
    return f"{number:0{len(str(count))}d}-{OTHER_LETTERS.sub('_', told)}"[:64].rstrip(".")


def _without_sweep(document: Document) -> Document:
    data = {key: copy.deepcopy(value) for key, value in document.data.items() if key != SWEEP}
    keys = {path: place for path, place in document.keys.items() if path[:1] != (SWEEP,)}
    values = {path: place for path, place in document.values.items() if path[:1] != (SWEEP,)}
    return replace(document, data=data, keys=keys, values=values)
