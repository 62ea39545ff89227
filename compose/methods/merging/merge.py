"""Several adapters of one kind made into one: arithmetic on their weights.

A merged adapter costs what one costs. It computes the average of what the adapters compute only where the result is
linear in the weights that are merged: the increments of LoRAs under `concat`, and under `svd` of a sufficient rank.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple

from torch import Tensor

from compose.errors import ConfigError, Problem
from compose.methods.config import SEED, Config, is_count, is_number
from compose.methods.lora.spec import LoraConfig
from compose.methods.merging.alike import differences, means_alone, not_low_rank, not_signed
from compose.methods.merging.low_rank import as_factors, concatenated, delta_parts, of_deltas, truncated
from compose.methods.merging.members import member_of
from compose.methods.merging.rules import Donor, is_fixed, is_signed, rule_of, start_of
from compose.methods.merging.tasks import Counts, Task, dare, linear, ties


@dataclass(frozen=True)
class Kind:
    """A way to merge.

    Args:
        about: what it does, in a few words.
        of: what is merged: the `weights`; the `changes`, what training made of weights; or the `products` of LoRA's
            factors, so that ranks may differ.
        combine: makes one of several.
        drops: values are dropped at random before.
        truncates: the result is brought to a rank.
        density: the share of the values that is kept where nobody says; None where it has no meaning.
    """

    about: str
    of: Literal["weights", "changes", "products"]
    combine: Callable[..., Task] = linear
    drops: bool = False
    truncates: bool = False
    density: float | None = None


KINDS: Mapping[str, Kind] = {
    "linear": Kind("the weighted sum of the weights", "weights"),
    "task_arithmetic": Kind("the weighted sum of what training changed; weights may be negative", "changes"),
    "ties": Kind("trim, elect signs, mean of those that agree (Yadav et al., 2023)", "changes", ties, density=0.2),
    "dare_linear": Kind(
        "drop values at random and rescale (Yu et al., 2023), then add up", "changes", drops=True, density=0.5
    ),
    "dare_ties": Kind("drop values at random and rescale, then elect signs", "changes", ties, drops=True, density=0.5),
    "concat": Kind("LoRAs side by side, of the sum of their ranks: exact", "products"),
    "svd": Kind("the nearest LoRA of a rank to the sum of the products", "products", truncates=True),
    "ties_svd": Kind("ties on the products, then the nearest LoRA", "products", ties, truncates=True, density=0.2),
    "dare_linear_svd": Kind(
        "dare_linear on the products, then the nearest LoRA", "products", drops=True, truncates=True, density=0.5
    ),
    "dare_ties_svd": Kind(
        "dare_ties on the products, then the nearest LoRA", "products", ties, drops=True, truncates=True, density=0.5
    ),
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
        if self.weights is not None:
            given = self.weights if isinstance(self.weights, Sequence) else (self.weights,)
            object.__setattr__(self, "weights", tuple(given))
        found = [Problem(what, where=self.kind, hint=hint) for what, hint in self._faults(KINDS[self.kind])]
        if found:
            raise ConfigError(found)

    def _faults(self, kind: Kind) -> Iterator[tuple[str, str]]:
        """What is wrong with the options, and what would work."""
        weights, density, rank = self.weights or (), self.density, self.rank
        if not all(is_number(weight) for weight in weights):
            yield f"weights must be finite numbers, not {list(weights)!r}", ""
        elif kind.of == "weights" and min(weights, default=0) < 0:
            yield "negative weights would cancel out between a method's factors", "kind='task_arithmetic'"
        if density is not None and kind.density is None:
            yield f"density has no meaning for {self.kind!r}", ""
        elif density is not None and not (is_number(density) and 0 < density <= 1):
            yield f"density must be a number above 0 and up to 1, not {density!r}", ""
        if not is_number(self.scale) or (self.scale != 1 and kind.combine is not ties):
            yield f"scale={self.scale!r} has no meaning for {self.kind!r}", ""
        if rank is not None and not kind.truncates:
            yield f"rank has no meaning for {self.kind!r}", ""
        elif rank is not None and not is_count(rank, 1):
            yield f"rank must be a whole number of at least 1, not {rank!r}", ""
        if not SEED.accepts(self.seed) or self.seed is None:
            yield f"seed must be a whole number of at least 0 and below 2**63, not {self.seed!r}", ""

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
        weights, kind, first = self.weights_of(donors), KINDS[self.kind], donors[0]
        problems = differences(donors, any_rank=kind.of == "products")
        problems += not_low_rank(donors, self.kind) if kind.of == "products" else self._refusals(first, weights)
        if problems:
            raise ConfigError(problems)
        ways = {"weights": self._weights, "changes": self._changes, "products": self._products}
        config, merged = ways[kind.of](donors, weights)
        return config, {name: merged[name].to(like.dtype).contiguous() for name, like in first.tensors.items()}

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

    def _refusals(self, first: Donor, weights: Sequence[float]) -> Iterator[Problem]:
        """What the adapters' method has no arithmetic for."""
        where, (method, why) = f"'{first.name}'", means_alone(first.config)
        if method and KINDS[self.kind].of != "weights":
            yield Problem(f"{self.kind!r} has no meaning for {method}", where=where, why=why, hint="kind='linear'")
        elif method and (min(weights) < 0 or abs(sum(weights) - 1) > 1e-6):
            what = f"the weights of {method} adapters are from 0 and add up to 1, these to {sum(weights):g}"
            yield Problem(what, where=where, why=why, hint="no weights: then all count the same")
        elif min(weights) < 0 and not_signed(first.config):
            what = f"{not_signed(first.config)} adapters have no weights that could be negated"
            yield Problem(what, where=where, hint="weights of at least 0")

    def _weights(self, donors: Sequence[Donor], weights: Sequence[float]) -> tuple[Config, Task]:
        """Merges weights as they are; what does nothing at another value than 0 counts from there."""
        apart = _taken_apart(donors)
        return donors[0].config, apart.together(linear(apart.changes, lambda name: weights))

    def _changes(self, donors: Sequence[Donor], weights: Sequence[float]) -> tuple[Config, Task]:
        """Merges what training changed: the differences from what weights start at."""
        apart = _taken_apart(donors)

        def counts(name: str) -> Sequence[float]:
            return weights if apart.signed[name] else tuple(map(abs, weights))

        return donors[0].config, apart.together(self._combined(apart.changes, counts))

    def _products(self, donors: Sequence[Donor], weights: Sequence[float]) -> tuple[Config, Task]:
        """Merges LoRAs by their products."""
        kind, ranks = KINDS[self.kind], [_lora(donor).r for donor in donors]
        parts = [delta_parts(donor.tensors, _lora(donor).scale) for donor in donors]
        if kind.combine is linear and not kind.drops:  # side by side: no product of full width
            factors, rank = concatenated(parts, weights), sum(ranks)
        else:
            factors, rank = as_factors(self._combined([of_deltas(part) for part in parts], lambda site: weights)), 0
        if kind.truncates:
            rank = self.rank or max(ranks)
            factors = {site: truncated(b, a, rank) for site, (b, a) in factors.items()}
        config = donors[0].config.make({**donors[0].config.to_dict(), "r": rank, "alpha": rank, "use_rslora": False})
        return config, {
            f"{site}.{name}": factor
            for site, pair in factors.items()
            for name, factor in zip(("b", "a"), pair, strict=True)
        }

    def _combined(self, tasks: Sequence[Task], counts: Counts) -> Task:
        """One task vector of several."""
        kind = KINDS[self.kind]
        density = kind.density if self.density is None else self.density
        if kind.drops:
            tasks, density = dare(tasks, density or 1.0, self.seed), 1.0
        return kind.combine(
            tasks, counts, **({"density": density, "scale": self.scale} if kind.combine is ties else {})
        )


class _Apart(NamedTuple):
    """The weights of some adapters taken apart.

    Args:
        changes: of each adapter, by how much its weights differ from what they start at.
        starts: what weights start at.
        signed: whether the sign of an adapter's weight goes to one.
        kept: the weights that all have in common.
    """

    changes: list[Task]
    starts: Mapping[str, Tensor | float]
    signed: Mapping[str, bool]
    kept: Task

    def together(self, merged: Task) -> Task:
        """The weights that have changed so."""
        return {**self.kept, **{name: change + self.starts[name] for name, change in merged.items()}}


def _taken_apart(donors: Sequence[Donor]) -> _Apart:
    starts, signed, kept = {}, {}, {}
    for name, tensor in donors[0].tensors.items():
        member, own = member_of(donors[0].config, name)
        rule = rule_of(member)
        if is_fixed(rule, own):
            kept[name] = tensor
        else:
            starts[name], signed[name] = start_of(rule, own, tensor.double()), is_signed(rule, own)
    changes = [{name: donor.tensors[name].double() - start for name, start in starts.items()} for donor in donors]
    return _Apart(list(changes), starts, signed, kept)


def _lora(donor: Donor) -> LoraConfig:
    assert isinstance(donor.config, LoraConfig)
    return donor.config
