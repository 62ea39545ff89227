"""A sweep's members: a recipe for each combination of what varies."""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, NamedTuple

from compose.errors import Problem, RecipeError
from compose.recipes.document import Document, Place
from compose.recipes.overrides import apply_overrides

MOST = 256
"""Members that a sweep may have."""

SWEEP = "sweep"
FIXED = ("recipe", "name", SWEEP)
"""Keys that all members share."""

OTHER_LETTERS = re.compile(r"[^A-Za-z0-9_.=,+-]+")


Sweep = Mapping[str, Sequence[Any] | Mapping[str, Mapping[str, Any]]]
"""What varies: values by key, or under a name choices by name, each of which sets several keys."""


class Setting(NamedTuple):
    """A value of a key that one member has, and where it stands in the sweep."""

    key: str
    value: Any
    place: Place

    @property
    def override(self) -> str:
        """As `--set` takes it."""
        return f"{self.key}={json.dumps(self.value, ensure_ascii=False)}"


class Choice(NamedTuple):
    """One of what varies under a key or name: what it is called, and what it sets."""

    told: Any
    settings: tuple[Setting, ...]


@dataclass(frozen=True)
class Member:
    """One recipe of a sweep.

    Args:
        name: of its folder: its number, and what is its own.
        values: by key of the sweep, what is its own: a value, or the name of a choice.
        settings: the keys of the recipe that it sets.
        document: the recipe with these values, each at its place in the sweep.
    """

    name: str
    values: Mapping[str, Any]
    settings: tuple[Setting, ...]
    document: Document

    def overrides(self) -> tuple[str, ...]:
        """What makes the recipe this member, as `--set` takes it."""
        return (f"{SWEEP}={{}}", *(setting.override for setting in self.settings))

    def told(self, problem: Problem) -> Problem:
        """A problem of this member: one that does not stand at a value of its own says which these are."""
        lines = {str(setting.place).rsplit(":", 1)[0] for setting in self.settings}
        if problem.where.rsplit(":", 1)[0] in lines:
            return problem
        what = ", ".join(f"{key}={_shown(value)}" for key, value in self.values.items())
        return replace(problem, why=f"with {what}" + (f": {problem.why}" if problem.why else ""))


def count(sweep: Sweep) -> int:
    """How many members a sweep has: 1 where nothing varies."""
    return math.prod(map(len, sweep.values()))


def members(document: Document, sweep: Sweep) -> list[Member]:
    """The members of a recipe's sweep, what stands last varying fastest.

    Args:
        document: the recipe.
        sweep: what varies.

    Raises:
        RecipeError: too many of them, or keys that lead nowhere or cannot vary.
    """
    if not sweep:
        return []
    many = count(sweep)
    problems = []
    if many > MOST:
        place = document.place((SWEEP,), key=True)
        problems.append(place.problem(f"{many} members, but a sweep has at most {MOST}", hint="fewer values"))
    choices = {key: _choices(document, key, values) for key, values in sweep.items()}
    fixed = {setting.key: setting.place for each in choices.values() for choice in each for setting in choice.settings}
    for key in [key for key in fixed if key.split(".")[0] in FIXED]:
        place = document.place((SWEEP, key), key=True) if key in sweep else fixed[key]
        problems.append(place.problem(f"'{key}' is the same for all members"))
    problems += [*_twice(document, sweep), *_clashes(choices)]
    if problems:
        raise RecipeError(problems)
    plain = _without_sweep(document)
    found = []
    for number, chosen in enumerate(product(*choices.values()), 1):
        values = {key: choice.told for key, choice in zip(sweep, chosen, strict=True)}
        settings = tuple(setting for choice in chosen for setting in choice.settings)
        at = {f"--set {setting.override}": setting.place for setting in settings}
        try:
            changed = apply_overrides(plain, [setting.override for setting in settings])
        except RecipeError as error:
            raise RecipeError([_moved(problem, at) for problem in error.problems]) from None
        keys, inside = (
            {path: at.get(place.source, place) for path, place in known.items()}
            for known in (changed.keys, changed.values)
        )
        own = replace(changed, keys=keys, values=inside)
        found.append(Member(_name(number, many, values), values, settings, own))
    return found


def _choices(document: Document, key: str, values: Sequence[Any] | Mapping[str, Mapping[str, Any]]) -> list[Choice]:
    """What varies under a key or name."""
    if isinstance(values, Mapping):
        return [
            Choice(
                name,
                tuple(
                    Setting(inner, value, document.place((SWEEP, key, name, inner))) for inner, value in given.items()
                ),
            )
            for name, given in values.items()
        ]
    return [
        Choice(value, (Setting(key, value, document.place((SWEEP, key, place))),)) for place, value in enumerate(values)
    ]


def _twice(document: Document, sweep: Sweep) -> Iterator[Problem]:
    """Values that a key takes more than once."""
    for key, values in sweep.items():
        told = [_told(value) for value in values] if not isinstance(values, Mapping) else []
        for number, value in enumerate(told):
            if value in told[:number]:
                place = document.place((SWEEP, key, number))
                yield place.problem(f"sweep.{key} has {value} twice: a second run of it would find the same")


def _clashes(choices: Mapping[str, Sequence[Choice]]) -> Iterator[Problem]:
    """Settings that replace what stands before them in another key or name of the sweep, so that it says nothing."""
    before: dict[str, str] = {}
    for name, every in choices.items():
        own = {setting.key: setting.place for choice in every for setting in choice.settings}
        for key, place in own.items():
            lost = next((known for known in before if known == key or known.startswith(f"{key}.")), None)
            if lost is not None:
                what = f"sweep.{name} sets {key}, and so replaces what sweep.{before[lost]} sets"
                yield place.problem(what, hint="let what is set whole stand first, and each key vary once")
        before |= dict.fromkeys(own, name)


def _told(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def _moved(problem: Problem, at: Mapping[str, Place]) -> Problem:
    """A problem with an override, at the value of the sweep that it came from."""
    here = at[problem.where].problem(problem.what)
    return replace(problem, where=here.where, text=here.text, span=here.span)


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
