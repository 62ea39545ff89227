"""What merging has to know of adapters: which can be merged, and what arithmetic means for a method's weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from compose.errors import Problem
from compose.methods.config import Config
from compose.methods.lora.spec import LoraConfig

STARTS = frozenset({"init_weights", "init_weights_seed"})
"""Options of how weights started: adapters that differ in these alone can be merged."""
RANKS = frozenset({"r", "alpha"})
"""Options of LoRAs that may differ where their products are merged."""


class Donor(NamedTuple):
    """An adapter that is to be merged.

    Args:
        name: its name, for errors.
        config: its options.
        tensors: its weights by canonical name.
    """

    name: str
    config: Config
    tensors: Mapping[str, Tensor]


class Rule(NamedTuple):
    """What arithmetic has to know of a method's weights.

    Args:
        output: the weights that the increment is linear in: the sign of an adapter's weight goes to these alone, or
            it would cancel out between the factors. None if there are none.
        starts: the weights that start at a constant other than 0, by what they start at.
    """

    output: tuple[str, ...] | None = None
    starts: Mapping[str, float] = {}


RULES: Mapping[str, Rule] = {
    "bottleneck": Rule(("up.weight", "up.bias"), {"norm_before.weight": 1.0, "norm_after.weight": 1.0, "scaling": 1.0}),
    "lora": Rule(("b",)),
}
"""By method; of one that is not here, no weight can be negative."""


def rule_of(config: Config) -> Rule:
    """The rule of an adapter's method."""
    return RULES.get(config.method, Rule())


def ending(name: str, table: Mapping[str, Any], default: Any) -> Any:
    """The entry of a weight's last name in a table."""
    return next((value for last, value in table.items() if name.endswith(f".{last}")), default)


def differences(donors: Sequence[Donor], any_rank: bool) -> list[Problem]:
    """What adapters differ in that merging needs equal.

    Args:
        donors: the adapters.
        any_rank: whether their ranks may differ.
    """
    first, free = donors[0], STARTS | (RANKS if any_rank else frozenset())
    found = []
    for donor in donors[1:]:
        where = f"'{first.name}' and '{donor.name}'"
        if donor.config.method != first.config.method:
            what = f"one is a {first.config.method} adapter, the other a {donor.config.method} adapter"
            found.append(Problem(what, where=where, hint="Average or Fuse them: compose.Average('a', 'b')"))
            continue
        ours, theirs = first.config.to_dict(), donor.config.to_dict()
        different = [name for name in ours if ours[name] != theirs[name] and name not in free]
        found += [
            Problem(f"{name} is {ours[name]!r} in the one, {theirs[name]!r} in the other", where=where)
            for name in different
        ]
        if not different:
            found += _shape_problems(first, donor, where, any_rank)
    return found


def not_low_rank(donors: Sequence[Donor], kind: str) -> list[Problem]:
    """A problem for each adapter that is not two factors a map, whose product could be merged."""
    return [
        Problem(f"{kind} merges plain LoRAs: two factors a map, without a gate", where=f"'{donor.name}'")
        for donor in donors
        if not isinstance(donor.config, LoraConfig)
        or any(name.rpartition(".")[2] not in ("a", "b") for name in donor.tensors)
    ]


def _shape_problems(first: Donor, other: Donor, where: str, any_rank: bool) -> list[Problem]:
    """Weights that only one of two has, or of another shape."""
    found = [
        Problem(f"only one of them has the weight '{name}'", where=where)
        for name in sorted(set(first.tensors) ^ set(other.tensors))
    ]
    if any_rank:
        return found
    return found + [
        Problem(f"'{name}' has the shapes {tuple(tensor.shape)} and {tuple(other.tensors[name].shape)}", where=where)
        for name, tensor in first.tensors.items()
        if name in other.tensors and tensor.shape != other.tensors[name].shape
    ]
