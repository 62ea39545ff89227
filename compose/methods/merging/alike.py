"""Whether adapters can be merged: what they differ in, and what their methods have no arithmetic for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from compose.errors import Problem
from compose.methods.config import Config
from compose.methods.lora.spec import LoraConfig
from compose.methods.merging.members import member_of
from compose.methods.merging.rules import Donor, is_fixed, rule_of

STARTS = frozenset(
    {
        "init_weights",
        "init_weights_seed",
        "prompt_init",
        "prompt_init_text",
        "random_uniform_scale",
        "phm_c_init",
        "phm_init_range",
        "hypercomplex_nonlinearity",
    }
)
"""Options of how weights started: adapters that differ in these alone can be merged."""
RANKS = frozenset({"r", "alpha", "use_rslora"})
"""Options of LoRAs that may differ where their products are merged: the scaling goes into these."""

_ADDED = "Average or Fuse them: compose.Average('a', 'b')"

NO_PRODUCT: Mapping[str, str] = {
    "dora": "its gain is a magnitude over a norm of the backbone's weights, which merging does not read",
    "dvora": "its gain is a magnitude over a norm of the backbone's weights, which merging does not read",
    "vera": "its factors are the same for all maps: kind='linear' where these are in common",
    "mtl_lora": "a task's matrix stands between its factors",
    "ia3": "it scales, and adds no product: kind='linear' adds up the differences of its scalings",
    "bitfit": "it adds biases, and no product: kind='linear' is exact",
}
"""Why a method has no products that could be merged, where there is more to say than that it is no LoRA."""


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
        if _methods(donor.config) != _methods(first.config):
            what = f"one is a {_methods(first.config)} adapter, the other a {_methods(donor.config)} adapter"
            found.append(Problem(what, where=where, hint=_ADDED))
            continue
        ours, theirs = _options(first.config), _options(donor.config)
        different = [name for name in ours if ours[name] != theirs[name] and name.rpartition(".")[2] not in free]
        found += [
            Problem(f"{name} is {ours[name]!r} in the one, {theirs[name]!r} in the other", where=where)
            for name in different
        ]
        if not different:
            shapes = _shape_problems(first, donor, where, any_rank)
            found += shapes or list(_fixed_problems(first, donor, where))
    return found


def not_low_rank(donors: Sequence[Donor], kind: str) -> list[Problem]:
    """A problem for each adapter that is not two factors a map, whose product could be merged."""
    return [
        Problem(
            f"{kind} merges LoRAs: two factors a map, without a gate",
            where=f"'{donor.name}'",
            why=NO_PRODUCT.get(donor.config.method, ""),
        )
        for donor in donors
        if not isinstance(donor.config, LoraConfig)
        or any(name.rpartition(".")[2] not in ("a", "b") for name in donor.tensors)
    ]


def not_signed(config: Config) -> str:
    """The method of an adapter that has no weights that could be negated; empty if all that act have some."""
    return next((each.method for each in config.members if rule_of(each).output is None), "")


def means_alone(config: Config) -> tuple[str, str]:
    """The method of an adapter for which nothing but a mean has a meaning, and why; empty if there is none."""
    return next(((each.method, rule_of(each).mean) for each in config.members if rule_of(each).mean), ("", ""))


def _methods(config: Config) -> str:
    """What an adapter is, in words."""
    if len(config.members) == 1:
        return config.members[0].method
    return f"union of {' and '.join(each.method for each in config.members)}"


def _options(config: Config) -> dict[str, Any]:
    """All options by name, those of a union's members with their number."""
    if len(config.members) == 1:
        return config.members[0].to_dict()
    return {
        f"configs[{number}].{name}": value
        for number, member in enumerate(config.members)
        for name, value in member.to_dict().items()
    }


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


def _fixed_problems(first: Donor, other: Donor, where: str) -> Iterator[Problem]:
    """Weights that must be the same in both, and are not."""
    for name, tensor in first.tensors.items():
        member, own = member_of(first.config, name)
        rule = rule_of(member)
        if is_fixed(rule, own) and not tensor.double().equal(other.tensors[name].double()):
            yield Problem(f"'{name}' differs, which must be the same", where=where, why=rule.fixed_why, hint=_ADDED)
