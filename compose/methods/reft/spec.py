"""The options of ReFT, and where they make an adapter act."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from compose.errors import ConfigError, Problem
from compose.methods.bottleneck.spec import LEARNED_NON_LINEARITIES, NON_LINEARITY
from compose.methods.config import (
    COUNT,
    FLAG,
    LAYERS,
    PROBABILITY,
    SEED,
    Config,
    Option,
    acts_nowhere,
    is_count,
    option,
    unknown_layers,
)
from compose.specs import ActingSpec, AdapterSpec, BackboneSpec, SiteSpec

ALL = "all"

ALL_OR_LAYERS = Option(
    lambda value: value == ALL if isinstance(value, str) else LAYERS.accepts(value),
    "'all' or a list of layer numbers, from 0",
    (ALL,),
    normal=lambda value: value if isinstance(value, str) else LAYERS.normal(value),
    plain=lambda value: value if isinstance(value, str) else list(value),
)
POSITIONS = Option(is_count, "a whole number of at least 0")
OPTIONAL_NON_LINEARITY = Option(
    lambda value: value is None or NON_LINEARITY.accepts(value),
    "the name of an activation, or None",
    NON_LINEARITY.legal,
    normal=lambda value: None if value is None else NON_LINEARITY.normal(value),
)


@dataclass(frozen=True)
class ReftConfig(Config):
    """Options of a ReFT adapter; the names are AdapterHub's. See `ReftPart` for the equation.

    After Wu et al., "ReFT: Representation Finetuning for Language Models", 2024, arXiv:2404.03592. The defaults
    are LoReFT's; NoReFT is without `orthogonality`, DiReFT without `orthogonality` and `subtract_projection`.

    Args:
        layers: the layers whose output it changes, or `all`.
        prefix_positions: how many of a row's first tokens it changes.
        suffix_positions: how many of a row's last tokens it changes. A token that is both counts as a last one.
        r: rank: the dimensions of the subspace in which states are changed.
        orthogonality: keep the rows of the projection orthonormal, in training too.
        tied_weights: the same weights at both ends of a row; else each end has its own, used or not.
        subtract_projection: move the state within the subspace to the target; without, add the target to it.
        dropout: on the changed states.
        non_linearity: on the target; None for none.
        init_weights_seed: seed of every part's weights; the global generator otherwise.

    Raises:
        ConfigError: with a problem for every option that is out of range.
    """

    method: ClassVar[str] = "reft"

    layers: str | tuple[int, ...] = option(ALL, ALL_OR_LAYERS)
    prefix_positions: int = option(3, POSITIONS)
    suffix_positions: int = option(0, POSITIONS)
    r: int = option(1, COUNT)
    orthogonality: bool = option(True, FLAG)
    tied_weights: bool = option(False, FLAG)
    subtract_projection: bool = option(True, FLAG)
    dropout: float = option(0.05, PROBABILITY)
    non_linearity: str | None = option(None, OPTIONAL_NON_LINEARITY)
    init_weights_seed: int | None = option(None, SEED)

    @classmethod
    def conflicts(cls, values: Mapping[str, Any]) -> list[Problem]:
        """No position to act on."""
        if values["prefix_positions"] or values["suffix_positions"]:
            return []
        what = "prefix_positions and suffix_positions are both 0: it would act nowhere"
        return [Problem(what, where=cls.method, hint="prefix_positions=3")]

    @property
    def units(self) -> tuple[str, ...]:
        """The names of its sets of weights in a layer."""
        return ("tied",) if self.tied_weights else ("prefix", "suffix")

    @property
    def used(self) -> tuple[str, ...]:
        """Those that have tokens to act on, in the order of a row."""
        if self.tied_weights:
            return self.units
        counts = (self.prefix_positions, self.suffix_positions)
        return tuple(unit for unit, count in zip(self.units, counts, strict=True) if count)

    @property
    def ends(self) -> tuple[int, ...]:
        """How many tokens of a row each of these acts on."""
        counts = (self.prefix_positions, self.suffix_positions)
        return (sum(counts),) if self.tied_weights else tuple(count for count in counts if count)

    def describe(self, name: str, backbone: BackboneSpec) -> AdapterSpec:
        """Where it acts on a backbone, and what it costs there; see `Config.describe`."""
        count, width = len(backbone.layers), backbone.hidden_size
        layers = tuple(range(count)) if isinstance(self.layers, str) else self.layers
        problems = unknown_layers(self.method, "layers", layers, count)
        if self.orthogonality and self.r > width:
            what = f"r={self.r} directions of a space of {width} dimensions cannot all be orthogonal"
            problems.append(Problem(what, where=self.method, hint=f"r={width} at most"))
        if problems:
            raise ConfigError(problems)
        parts = tuple(
            self._acting(name, layer.index, layer.output) for layer in backbone.layers if layer.index in layers
        )
        if not parts:
            raise acts_nowhere(self.method, name, backbone, "layers='all'")
        return AdapterSpec(name, self.method, parts)

    def _acting(self, name: str, layer: int, site: SiteSpec) -> ActingSpec:
        width = site.width_out
        learned = LEARNED_NON_LINEARITIES.get(self.non_linearity or "", 0)
        # A token: its target, its projection where that is subtracted, and the way back.
        multiplies = (2 + self.subtract_projection) * self.r * width
        structure = (self.prefix_positions, self.suffix_positions, self.tied_weights, self.subtract_projection)
        return ActingSpec(
            layer=layer,
            site=site.name,
            rank=self.r,
            parameters=len(self.units) * (2 * self.r * width + self.r + learned),
            multiplies=multiplies,
            increment_multiplies=multiplies,
            # an activation with weights of its own cannot be grouped with another adapter's
            shape=(self.method, width, self.r, *structure, self.dropout, self.non_linearity, name if learned else ""),
            ends=self.ends,
            columns=self.r * len(self.used),
        )
