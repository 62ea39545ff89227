"""Several adapters of one kind made into one: arithmetic on their weights.

A merged adapter costs what one costs. It computes the average of what the adapters compute only where the result is
linear in the weights that are merged: the increments of LoRAs under `concat`, and under `svd` of a sufficient rank.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor

from compose.errors import ConfigError, Problem
from compose.methods.config import Config, is_count, is_number
from compose.methods.lora.spec import LoraConfig
from compose.methods.merging_low_rank import concatenated, delta_parts, of_deltas, truncated
from compose.methods.merging_tasks import Task, dare, linear, ties

STARTS = frozenset({"init_weights", "init_weights_seed"})
"""Options of how weights started: adapters that differ in these alone can be merged."""
RANKS = frozenset({"r", "alpha"})


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


@dataclass(frozen=True)
class Kind:
    """A way to merge.

    Args:
        about: what it does, in a few words.
        combine: makes one task vector of several; None for what is no arithmetic on them.
        deltas: it merges the products of LoRA's factors, not the factors: ranks may differ.
        density: the share of the values that is kept where nobody says; None where it has no meaning.
    """

    about: str
    combine: Callable[..., Task] | None
    deltas: bool = False
    density: float | None = None


KINDS: Mapping[str, Kind] = {
    "linear": Kind("the weighted sum of the weights", None),
    "task_arithmetic": Kind("the weighted sum of what training changed; weights may be negative", linear),
    "ties": Kind("trim, elect signs, mean of those that agree (Yadav et al., 2023)", ties, density=0.2),
    "dare_linear": Kind("drop values at random and rescale (Yu et al., 2023), then add up", linear, density=0.5),
    "dare_ties": Kind("drop values at random and rescale, then elect signs", ties, density=0.5),
    "concat": Kind("LoRAs side by side, of the sum of their ranks: exact", None, deltas=True),
    "svd": Kind("the nearest LoRA of a rank to the sum of the products", linear, deltas=True),
    "ties_svd": Kind("ties on the products, then the nearest LoRA", ties, deltas=True, density=0.2),
    "dare_linear_svd": Kind("dare_linear on the products, then the nearest LoRA", linear, deltas=True, density=0.5),
    "dare_ties_svd": Kind("dare_ties on the products, then the nearest LoRA", ties, deltas=True, density=0.5),
}


@dataclass(frozen=True)
class Merge:
    """How to merge.

    Args:
        kind: one of `KINDS`.
        weights: what each adapter counts; all the same, adding up to 1, by default.
        density: with `ties` the share of its values, the largest, that each adapter keeps; with `dare` the
            probability of each value to be kept. By default the kind's.
        scale: with `ties`, what the merged change is multiplied by.
        rank: with `svd`, of the result; the largest of the adapters' by default.
        seed: with `dare`, of what is dropped.

    Raises:
        ConfigError: with a problem for everything that is unknown, out of range, or has no meaning for the kind.
    """

    kind: str = "linear"
    weights: tuple[float, ...] | None = None
    density: float | None = None
    scale: float = 1.0
    rank: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"there is no kind of merging {self.kind!r}", got=str(self.kind), legal=tuple(KINDS))
        kind, found = KINDS[self.kind], []
        if self.weights is not None:
            object.__setattr__(self, "weights", tuple(self.weights))
            if not all(is_number(weight) for weight in self.weights):
                found.append(f"weights must be finite numbers, not {list(self.weights)!r}")
            elif self.kind == "linear" and min(self.weights, default=0) < 0:
                found.append("linear takes no negative weights: they would cancel out between a method's factors")
        if self.density is not None and kind.density is None:
            found.append(f"density has no meaning for {self.kind!r}")
        elif self.density is not None and not (is_number(self.density) and 0 < self.density <= 1):
            found.append(f"density must be a number above 0 and up to 1, not {self.density!r}")
        if not is_number(self.scale) or (self.scale != 1 and kind.combine is not ties):
            found.append(f"scale={self.scale!r} has no meaning for {self.kind!r}")
        if self.rank is not None and not self.kind.endswith("svd"):
            found.append(f"rank has no meaning for {self.kind!r}")
        elif self.rank is not None and not is_count(self.rank, 1):
            found.append(f"rank must be a whole number of at least 1, not {self.rank!r}")
        if not is_count(self.seed):
            found.append(f"seed must be a whole number of at least 0, not {self.seed!r}")
        if found:
            hint = "kind='task_arithmetic'" if found[0].startswith("linear takes") else ""
            raise ConfigError([Problem(what, where=self.kind, hint=hint) for what in found])

    @classmethod
    def make(cls, **options: Any) -> Merge:
        """How to merge, from options by name.

        Raises:
            ConfigError: naming everything that is unknown or out of range.
        """
        known = tuple(field.name for field in fields(cls))
        unknown = [name for name in options if name not in known]
        if unknown:
            raise ConfigError(
                [Problem(f"there is no option {name!r} of merging", got=name, legal=known) for name in unknown]
            )
        return cls(**options)

    def of(self, donors: Sequence[Donor]) -> tuple[Config, dict[str, Tensor]]:
        """Merges adapters.

        Returns:
            Config and weights of the result.

        Raises:
            ConfigError: with every difference between the adapters that stands in the way.
        """
        weights = self.weights_of(donors)
        problems = [*self._problems(donors, weights)]
        if problems:
            raise ConfigError(problems)
        if KINDS[self.kind].deltas:
            return self._low_rank(donors, weights)
        first = donors[0]
        values = [{name: tensor.double() for name, tensor in donor.tensors.items()} for donor in donors]
        if self.kind == "linear":
            merged = linear(values, lambda name: weights)
        else:
            merged = self._merge_changes(values, weights, RULES.get(first.config.method, Rule()))
        return first.config, {name: merged[name].to(tensor.dtype) for name, tensor in first.tensors.items()}

    def weights_of(self, donors: Sequence[Donor]) -> tuple[float, ...]:
        """What each adapter counts.

        Raises:
            ConfigError: there are no adapters, or not a weight for each.
        """
        if not donors:
            raise ConfigError("there is nothing to merge", hint="the names of adapters")
        if self.weights is None:
            return (1 / len(donors),) * len(donors)
        if len(self.weights) != len(donors):
            raise ConfigError(f"{len(self.weights)} weights for {len(donors)} adapters", hint="a weight for each")
        return self.weights

    def _merge_changes(self, values: list[Task], weights: tuple[float, ...], rule: Rule) -> Task:
        """Merges what training changed: the differences from what weights start at."""
        starts = {name: _ending(name, rule.starts, 0.0) for name in values[0]}
        changes = [{name: tensor - starts[name] for name, tensor in task.items()} for task in values]

        def counts(name: str) -> tuple[float, ...]:
            signed = _ending(name, dict.fromkeys(rule.output or (), True), False)
            return weights if signed else tuple(map(abs, weights))

        return {name: change + starts[name] for name, change in self._combined(changes, counts).items()}

    def _combined(self, tasks: list[Task], counts: Callable[[str], tuple[float, ...]]) -> Task:
        """One task vector of several."""
        kind = KINDS[self.kind]
        density = kind.density if self.density is None else self.density
        options: dict[str, Any] = {}
        if self.kind.startswith("dare"):
            tasks = dare(tasks, density or 1.0, self.seed)
            density = 1.0
        if kind.combine is ties:
            options = {"density": density, "scale": self.scale}
        assert kind.combine is not None
        return kind.combine(tasks, counts, **options)

    def _low_rank(self, donors: Sequence[Donor], weights: tuple[float, ...]) -> tuple[Config, dict[str, Tensor]]:
        """Merges LoRAs by their products."""
        parts = [delta_parts(donor.tensors, _lora(donor.config).scale) for donor in donors]
        if self.kind == "concat":
            rank, factors = sum(_lora(donor.config).r for donor in donors), concatenated(parts, weights)
        else:
            rank = self.rank or max(_lora(donor.config).r for donor in donors)
            if self.kind == "svd":  # the factors side by side are the sum, without a product of full width
                factors = {site: truncated(b, a, rank) for site, (b, a) in concatenated(parts, weights).items()}
            else:
                merged = self._combined([of_deltas(part) for part in parts], lambda site: weights)
                factors = {
                    site: truncated(delta, torch.eye(delta.shape[1], dtype=delta.dtype, device=delta.device), rank)
                    for site, delta in merged.items()
                }
        config = donors[0].config.make({**donors[0].config.to_dict(), "r": rank, "alpha": rank})
        tensors = {}
        for site, (b, a) in factors.items():
            for name, factor in (("a", a), ("b", b)):
                like = donors[0].tensors[f"{site}.{name}"]
                tensors[f"{site}.{name}"] = factor.to(like.dtype).contiguous()
        return config, tensors

    def _problems(self, donors: Sequence[Donor], weights: tuple[float, ...]) -> list[Problem]:
        """Everything that stands in the way of merging."""
        first = donors[0]
        ranks = RANKS if KINDS[self.kind].deltas else frozenset()
        found = []
        for donor in donors[1:]:
            where = f"'{first.name}' and '{donor.name}'"
            if donor.config.method != first.config.method:
                what = f"one is a {first.config.method} adapter, the other a {donor.config.method} adapter"
                found.append(Problem(what, where=where, hint="Average or Fuse them: compose.Average('a', 'b')"))
                continue
            ours, theirs = first.config.to_dict(), donor.config.to_dict()
            different = [name for name in ours if ours[name] != theirs[name] and name not in STARTS | ranks]
            found += [
                Problem(f"{name} is {ours[name]!r} in the one, {theirs[name]!r} in the other", where=where)
                for name in different
            ]
            if not different:
                found += _shape_problems(first, donor, where, bool(ranks))
        if KINDS[self.kind].deltas:
            found += [
                Problem(f"{self.kind} merges LoRAs without a gate", where=f"'{donor.name}'", hint="kind='linear'")
                for donor in donors
                if not isinstance(donor.config, LoraConfig) or donor.config.use_gating
            ]
        elif min(weights) < 0 and RULES.get(first.config.method, Rule()).output is None:
            what = f"{first.config.method} adapters have no weights that could be negated"
            found.append(Problem(what, where=f"'{first.name}'", hint="weights of at least 0"))
        return found


def _lora(config: Config) -> LoraConfig:
    assert isinstance(config, LoraConfig)
    return config


def _ending(name: str, table: Mapping[str, Any], default: Any) -> Any:
    """The entry of a weight's last name in a table."""
    return next((value for ending, value in table.items() if name.endswith(f".{ending}")), default)


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
