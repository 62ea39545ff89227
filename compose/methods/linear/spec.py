"""Where methods that act on linear maps do so, and the options of increments of low rank."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compose.errors import ConfigError, Problem
from compose.methods.config import (
    COUNT,
    FLAG,
    LAYERS,
    NUMBER,
    OPTIONAL_FLAG,
    PROBABILITY,
    SEED,
    Config,
    acts_nowhere,
    choices,
    option,
    unknown_layers,
)
from compose.specs import ActingSpec, AdapterSpec, BackboneSpec, SiteSpec


@dataclass(frozen=True)
class LinearConfig(Config):
    """Options of a method that acts on linear maps; the names are AdapterHub's.

    Args:
        selfattn_lora: acts on the self-attention's maps that `attn_matrices` lists.
        crossattn_lora: likewise on the decoder's cross-attention; None: as `selfattn_lora`.
        intermediate_lora: acts on the feed-forward block's first map.
        output_lora: acts on its last map.
        attn_matrices: which of q, k, v, o.
        use_gating: a learned gate, averaged over the tokens, in place of the scaling.
        init_weights_seed: seed of every part's weights; the global generator otherwise.
        leave_out: layers without the adapter.
    """

    selfattn_lora: bool = option(True, FLAG)
    crossattn_lora: bool | None = option(None, OPTIONAL_FLAG)
    intermediate_lora: bool = option(False, FLAG)
    output_lora: bool = option(False, FLAG)
    attn_matrices: tuple[str, ...] = option(("q", "v"), choices("q", "k", "v", "o"))
    use_gating: bool = option(False, FLAG)
    init_weights_seed: int | None = option(None, SEED)
    leave_out: tuple[int, ...] = option((), LAYERS)

    @classmethod
    def conflicts(cls, values: Mapping[str, Any]) -> list[Problem]:
        """No map to act on."""
        attention = values["selfattn_lora"] or values["crossattn_lora"]
        if values["intermediate_lora"] or values["output_lora"] or (attention and values["attn_matrices"]):
            return []
        return [Problem("no option names a map: it would act nowhere", where=cls.method, hint="selfattn_lora=True")]

    def sites(self) -> tuple[str, ...]:
        """The linear sites that it acts on, where a layer has them."""
        cross = self.selfattn_lora if self.crossattn_lora is None else self.crossattn_lora
        names = [f"attn.{matrix}" for matrix in self.attn_matrices if self.selfattn_lora]
        names += [f"cross.attn.{matrix}" for matrix in self.attn_matrices if cross]
        names += ["ffn.in"] * self.intermediate_lora + ["ffn.out"] * self.output_lora
        return tuple(names)

    def describe(self, name: str, backbone: BackboneSpec) -> AdapterSpec:
        """Where it acts on a backbone, and what it costs there; see `Config.describe`."""
        problems = unknown_layers(self.method, "leave_out", self.leave_out, len(backbone.layers))
        if problems:
            raise ConfigError(problems)
        found = [
            (layer.index, layer.sites[site])
            for layer in backbone.layers
            if layer.index not in self.leave_out
            for site in self.sites()
            if site in layer.sites
        ]
        if not found:
            raise acts_nowhere(self.method, name, backbone, "other attn_matrices, or fewer layers in leave_out")
        shared = self.shared_parameters(backbone, found)
        return AdapterSpec(
            name, self.method, tuple(self.acting(layer, site) for layer, site in found), shared_parameters=shared
        )

    @abstractmethod
    def acting(self, layer: int, site: SiteSpec) -> ActingSpec:
        """Its part at a site: weights and costs.

        Args:
            layer: index of the layer.
            site: a linear site.
        """

    def shared_parameters(self, backbone: BackboneSpec, found: Sequence[tuple[int, SiteSpec]]) -> int:
        """The number of weights that its parts have in common at some sites, each with its layer."""
        return 0


@dataclass(frozen=True)
class LowRankConfig(LinearConfig):
    """Options of increments of low rank.

    Args:
        r: rank.
        alpha: the increment is scaled by alpha / r.
        use_rslora: it is scaled by alpha / sqrt(r) instead, so that its size does not fall with the rank
            (Kalajdzievski, 2023).
        dropout: on what is read.
    """

    r: int = option(8, COUNT)
    alpha: float = option(8.0, NUMBER)
    use_rslora: bool = option(False, FLAG)
    dropout: float = option(0.0, PROBABILITY)

    @property
    def scale(self) -> float:
        """What the product of the factors is multiplied by; the gate takes its place."""
        if self.use_gating:
            return 1.0
        return self.alpha / (math.sqrt(self.r) if self.use_rslora else self.r)

    def acting(self, layer: int, site: SiteSpec) -> ActingSpec:
        """Two factors, and the gate, which is a part of the added term and so of the increment."""
        gate = site.width_in * self.use_gating
        multiplies = self.r * (site.width_in + site.width_out) + gate
        return ActingSpec(
            layer=layer,
            site=site.name,
            rank=self.r,
            parameters=multiplies + self.use_gating,
            multiplies=multiplies,
            increment_multiplies=multiplies,
            shape=(self.method, site.width_in, site.width_out, self.r, self.dropout, self.use_gating),
        )
