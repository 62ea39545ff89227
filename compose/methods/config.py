"""Options as data: every field of a config says what it accepts, and all faults are told at once."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Self, TypeGuard

from compose.errors import ConfigError, Problem
from compose.specs import AdapterSpec, BackboneSpec

SHOWN = 100
"""How many characters of a wrong value are told."""


def _same(value: Any) -> Any:
    return value


def _shown(value: Any) -> str:
    """The repr of a value, cut to a readable length."""
    try:
        text = repr(value)
    except ValueError:  # an int of more digits than Python writes
        return f"such a large {type(value).__name__}"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


@dataclass(frozen=True)
class Option:
    """What a field of a config accepts.

    Args:
        accepts: whether a value is legal.
        expected: what is legal, in words that follow "must be".
        legal: the legal names, where these can be listed.
        normal: brings a legal value to its stored, hashable form.
        plain: brings a stored value to the form that a JSON file holds.
    """

    accepts: Callable[[Any], bool]
    expected: str
    legal: tuple[str, ...] = ()
    normal: Callable[[Any], Any] = _same
    plain: Callable[[Any], Any] = _same


def option(default: Any, kind: Option) -> Any:
    """A dataclass field with a default and the values that it accepts."""
    return field(default=default, metadata={"option": kind})


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a value is a finite number (a bool is none), and one that a float can hold."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond all floats
        return False


def is_count(value: Any, least: int = 0, most: float = math.inf) -> bool:
    """Whether a value is a whole number from `least` to `most` (a bool is none)."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def choice(*names: str) -> Option:
    """One of some names."""
    return Option(lambda value: isinstance(value, str) and value in names, "one of the legal names", names)


def choices(*names: str) -> Option:
    """Some names of a list, each once, stored in the list's order."""

    def accepts(value: Any) -> bool:
        return (
            isinstance(value, list | tuple | set | frozenset)
            and all(isinstance(name, str) and name in names for name in value)
            and len(set(value)) == len(value)
        )

    def normal(value: Any) -> tuple[str, ...]:
        return tuple(name for name in names if name in value)

    return Option(accepts, f"a list of names from {', '.join(names)}", names, normal, list)


FLAG = Option(lambda value: isinstance(value, bool), "True or False")
MOST = 2**20
"""The largest width, rank or length. More is a slip or a damaged file, and would fill the memory."""
COUNT = Option(lambda value: is_count(value, 1, MOST), f"a whole number of at least 1 and at most {MOST}")
OPTIONAL_COUNT = Option(
    lambda value: value is None or is_count(value, 1, MOST), f"a whole number of at least 1 and at most {MOST}, or None"
)
OPTIONAL_FLAG = Option(lambda value: value is None or isinstance(value, bool), "True, False or None")
NUMBER = Option(is_number, "a finite number", normal=float)
PROBABILITY = Option(lambda value: is_number(value) and 0 <= value < 1, "a number from 0 to below 1", normal=float)
SEED = Option(
    lambda value: value is None or is_count(value, 0, 2**63 - 1),
    "a whole number of at least 0 and below 2**63, or None",
)
LAYERS = Option(
    lambda value: isinstance(value, list | tuple | range) and len(value) <= MOST and all(map(is_count, value)),
    "a list of layer numbers, from 0",
    normal=lambda value: tuple(sorted(set(value))),
    plain=list,
)


@dataclass(frozen=True)
class Options:
    """Base of configs: frozen, hashable, checked when built.

    Raises:
        ConfigError: with a problem for every option that is unknown or out of range.
    """

    method: ClassVar[str]

    def __post_init__(self) -> None:
        values = {name: getattr(self, name) for name in self.options()}
        problems = self.problems(values)
        if problems:
            raise ConfigError(problems)
        for name, kind in self.options().items():
            object.__setattr__(self, name, kind.normal(values[name]))

    @classmethod
    def options(cls) -> dict[str, Option]:
        """What each field accepts, in order."""
        return {field.name: field.metadata["option"] for field in fields(cls)}

    @classmethod
    def make(cls, values: Mapping[str, Any]) -> Self:
        """A config from a mapping of options; those left out have their defaults.

        Raises:
            ConfigError: naming every unknown option and every illegal value at once.
        """
        problems = cls.problems(values)
        if problems:
            raise ConfigError(problems)
        return cls(**values)

    @classmethod
    def problems(cls, values: Mapping[str, Any]) -> list[Problem]:
        """Everything that is wrong with some options."""
        known = cls.options()
        found = [
            Problem(
                f"there is no option {name!r} of {cls.method!r}",
                where=cls.method,
                got=str(name),
                legal=tuple(known),
            )
            for name in values
            if name not in known
        ]
        bad = {name for name in values if name in known and not known[name].accepts(values[name])}
        for name in known:
            if name in bad:
                value, kind = values[name], known[name]
                found.append(
                    Problem(
                        f"{name} must be {kind.expected}, not {_shown(value)}",
                        where=cls.method,
                        got=value if isinstance(value, str) else "",
                        legal=kind.legal,
                    )
                )
        if not bad:
            found += cls.conflicts({**cls.defaults(), **{k: v for k, v in values.items() if k in known}})
        return found

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """The default of every option."""
        return {field.name: field.default for field in fields(cls)}

    @classmethod
    def conflicts(cls, values: Mapping[str, Any]) -> list[Problem]:
        """What is wrong between options that are legal one by one; `values` has them all."""
        return []

    def to_dict(self) -> dict[str, Any]:
        """All options as values that JSON can hold; `make` takes them back."""
        return {name: kind.plain(getattr(self, name)) for name, kind in self.options().items()}


@dataclass(frozen=True)
class Config(Options):
    """Base of the configs of adapter methods."""

    alternatives: ClassVar[tuple[tuple[str, ...], ...]] = ()
    """Options of which a user gives one at most."""

    @property
    def members(self) -> tuple[Config, ...]:
        """The configs of what acts under its name: its own, unless it is a union's."""
        return (self,)

    @abstractmethod
    def describe(self, name: str, backbone: BackboneSpec) -> AdapterSpec:
        """Where an adapter of this config acts on a backbone, and what it costs there.

        Args:
            name: the adapter's name.
            backbone: the backbone it is made for.

        Raises:
            ConfigError: if it names layers that the backbone lacks, or acts nowhere.
        """


def unknown_layers(method: str, option_name: str, layers: tuple[int, ...], count: int) -> list[Problem]:
    """A problem if some layer numbers lie beyond the last of `count` layers."""
    beyond = [index for index in layers if index >= count]
    if not beyond:
        return []
    named = f"layer {beyond[0]}" if len(beyond) == 1 else f"layers {', '.join(map(str, beyond))}"
    return [
        Problem(
            f"{option_name} names {named}, but the backbone has {count}, 0 to {count - 1}",
            where=method,
        )
    ]


def acts_nowhere(method: str, name: str, backbone: BackboneSpec, hint: str) -> ConfigError:
    """The error of an adapter that its options leave without any site."""
    sites = dict.fromkeys(site for layer in backbone.layers for site in layer.sites)
    return ConfigError(
        f"adapter {name!r} would act nowhere on this {backbone.architecture} backbone",
        where=method,
        why=f"its options name no site of the {len(backbone.layers)} layers; there are {', '.join(sites)}",
        hint=hint,
    )
