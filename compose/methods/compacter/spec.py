"""The options of Compacter: a bottleneck's, and what its two maps are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from compose.errors import ConfigError, Problem
from compose.methods.bottleneck.spec import BottleneckConfig
from compose.methods.config import COUNT, FLAG, Option, choice, is_number, option
from compose.specs import ActingSpec, BackboneSpec, SiteSpec

RANGE = Option(lambda value: is_number(value) and value > 0, "a number above 0", normal=float)


@dataclass(frozen=True)
class CompacterConfig(BottleneckConfig):
    """Options of Compacter: those of a bottleneck, whose two maps are parametrised hypercomplex multiplications.

    A map's matrix is a sum of Kronecker products of `phm_dim` pairs, H = sum_i rule_i (x) W_i: the rules are small
    and usually shared by all maps of the adapter, each W_i is a product of two thin factors. After Rabeeh Karimi
    Mahabadi, James Henderson and Sebastian Ruder, "Compacter: Efficient Low-Rank Hypercomplex Adapter Layers",
    NeurIPS 2021; the names of the options are AdapterHub's.

    Args:
        phm_dim: how many products are summed; it divides the states' width and the bottleneck's. The width that
            `reduction_factor` gives is raised to the next that it divides.
        factorized_phm_W: each W_i is a product of two factors of rank `phm_rank`.
        shared_W_phm: all down-projections have the same W_i, and all up-projections too.
        shared_phm_rule: all maps have the same rules.
        factorized_phm_rule: each rule is an outer product of two vectors.
        phm_c_init: rules start `normal`, of standard deviation `phm_init_range`, or `uniform` in +- that.
        phm_init_range: how far from zero rules start, and each W_i too where that is `normal`.
        learn_phm: the rules are trained; without it they stay as they were drawn, and are saved all the same.
        hypercomplex_nonlinearity: how each W_i starts: `glorot-uniform`, `glorot-normal` (also called `phm`) or
            `normal`.
        phm_rank: of the factors of each W_i.
        phm_bias: the maps have biases.

    Raises:
        ConfigError: with a problem for every option that is out of range.
    """

    method: ClassVar[str] = "compacter"

    phm_dim: int = option(4, COUNT)
    factorized_phm_W: bool = option(True, FLAG)
    shared_W_phm: bool = option(False, FLAG)
    shared_phm_rule: bool = option(True, FLAG)
    factorized_phm_rule: bool = option(False, FLAG)
    phm_c_init: str = option("normal", choice("normal", "uniform"))
    phm_init_range: float = option(0.0001, RANGE)
    learn_phm: bool = option(True, FLAG)
    hypercomplex_nonlinearity: str = option(
        "glorot-uniform", choice("phm", "glorot-normal", "glorot-uniform", "normal")
    )
    phm_rank: int = option(1, COUNT)
    phm_bias: bool = option(True, FLAG)

    @classmethod
    def conflicts(cls, values: Mapping[str, Any]) -> list[Problem]:
        """Beside a bottleneck's: shared maps of several sizes."""
        found = super().conflicts(values)
        by_layer = isinstance(values["reduction_factor"], Mapping | tuple) and values["bottleneck_size"] is None
        if values["shared_W_phm"] and (by_layer or values["bottleneck_sizes"]):
            what = "shared_W_phm=True needs bottlenecks of one width, but they differ by layer"
            found.append(Problem(what, where=cls.method, hint="one reduction_factor, or shared_W_phm=False"))
        return found

    @property
    def has_map_bias(self) -> bool:
        """Whether down- and up-projection have biases."""
        return self.phm_bias

    @property
    def rule_rank(self) -> int | None:
        """The rank of the factors of a rule; None where it is whole."""
        return 1 if self.factorized_phm_rule else None

    @property
    def weight_rank(self) -> int | None:
        """The rank of the factors of each W_i; None where it is whole."""
        return self.phm_rank if self.factorized_phm_W else None

    def map_parameters(self, width_in: int, width_out: int) -> int:
        """The weights of a map that are its own."""
        own_rule = 0 if self.shared_phm_rule else self._rule_parameters()
        own_weight = 0 if self.shared_W_phm else self._weight_parameters(width_in, width_out)
        return own_rule + own_weight + width_out * self.phm_bias

    def shared_parameters(self, parts: tuple[ActingSpec, ...], backbone: BackboneSpec) -> int:
        """The weights that all maps have in common."""
        count = self._rule_parameters() if self.shared_phm_rule else 0
        if self.shared_W_phm:
            width, rank = backbone.hidden_size, parts[0].rank
            count += self._weight_parameters(width, rank) + self._weight_parameters(rank, width)
        return count

    def structure(self) -> tuple[object, ...]:
        """What parts agree in that compute alike: of what their maps are made makes no difference."""
        made_of = {"phm_dim", "factorized_phm_W", "shared_W_phm", "shared_phm_rule", "factorized_phm_rule"}
        made_of |= {"phm_c_init", "phm_init_range", "learn_phm", "hypercomplex_nonlinearity", "phm_rank"}
        return self.options_but(made_of)

    def _rule_parameters(self) -> int:
        return self.learn_phm * matrices_size(self.phm_dim, self.phm_dim, self.phm_dim, self.rule_rank)

    def _weight_parameters(self, width_in: int, width_out: int) -> int:
        count = self.phm_dim
        return matrices_size(count, width_in // count, width_out // count, self.weight_rank)

    def size(self, width: int, layer: int, site: str = "") -> int:
        """A bottleneck's width; where a factor gives it, the next that `phm_dim` divides."""
        found = super().size(width, layer, site)
        said = self.bottleneck_size is not None or f"{layer}.{site}" in dict(self.bottleneck_sizes)
        return found if said else -(-found // self.phm_dim) * self.phm_dim

    def acting(self, name: str, layer: int, site: SiteSpec) -> ActingSpec:
        """A bottleneck's row, once it is known that its widths can be divided."""
        sizes = {"states": site.width_out, "the bottleneck": self.size(site.width_out, layer, site.name)}
        problems = [
            Problem(
                f"{what} of width {width} cannot be divided by phm_dim={self.phm_dim} (layer {layer}, '{site.name}')",
                where=self.method,
                hint="another phm_dim, reduction_factor or bottleneck_size",
            )
            for what, width in sizes.items()
            if width % self.phm_dim
        ]
        if problems:
            raise ConfigError(problems)
        return super().acting(name, layer, site)


def matrices_size(count: int, rows: int, columns: int, rank: int | None) -> int:
    """Weights of `count` matrices, whole (rank None) or as products of two factors."""
    return count * (rows * columns if rank is None else rank * (rows + columns))
