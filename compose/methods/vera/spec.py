"""The options of VeRA."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from compose.methods.config import FLAG, NUMBER, option
from compose.methods.linear.spec import LowRankConfig
from compose.specs import ActingSpec, BackboneSpec, LayerSpec, SiteSpec

_STACKED = ("q", "k", "v")


@dataclass(frozen=True)
class VeraConfig(LowRankConfig):
    """Options of a VeRA adapter (Kopiczko et al., 2023); the names are AdapterHub's.

    Args:
        selfattn_lora: acts on the self-attention's maps that `attn_matrices` lists.
        crossattn_lora: likewise on the decoder's cross-attention; None: as `selfattn_lora`.
        intermediate_lora: acts on the feed-forward block's first map.
        output_lora: acts on its last map.
        attn_matrices: which of q, k, v, o.
        use_gating: a learned gate, averaged over the tokens, in place of the scaling.
        init_weights_seed: seed of all weights; the global generator otherwise.
        leave_out: layers without the adapter.
        r: rank.
        alpha: the increment is scaled by alpha / r.
        use_rslora: it is scaled by alpha / sqrt(r) instead (Kalajdzievski, 2023).
        dropout: on what is read.
        vera_d: what the vector d, a factor for each hidden channel, starts from.
        vera_b: what the vector b, a factor for each channel of the result, starts from; 0: no change.
        square: d and b are full matrices, as AdapterHub trains them, and far larger.
        stacked: q, k and v of an attention use rows of B one below the other, as PEFT has it for a fused map
            (GPT-2); else each uses the first ones.

    Raises:
        ConfigError: with a problem for every option that is out of range.
    """

    method: ClassVar[str] = "vera"

    vera_d: float = option(0.1, NUMBER)
    vera_b: float = option(0.0, NUMBER)
    square: bool = option(False, FLAG)
    stacked: bool = option(False, FLAG)

    def acting(self, layer: int, site: SiteSpec) -> ActingSpec:
        """Its own vectors; the products are those of the shared factors."""
        acting = super().acting(layer, site)
        own = self.r**2 + site.width_out**2 if self.square else self.r + site.width_out
        further = self.r**2 * self.square
        return replace(
            acting,
            parameters=own + (site.width_in + 1) * self.use_gating,
            multiplies=acting.multiplies + further,
            increment_multiplies=acting.increment_multiplies + further,
            call_multiplies=self.square * site.width_out**2 * self.r,
            shape=(*acting.shape, self.square),
        )

    def first_row(self, layer: LayerSpec, site: str) -> int:
        """Which row of B is the first that a site of a layer uses."""
        before = itertools.takewhile(lambda each: each != site, _stack_of(site) if self.stacked else ())
        return sum(layer.sites[each].width_out for each in before)

    def shared_parameters(self, backbone: BackboneSpec, found: Sequence[tuple[int, SiteSpec]]) -> int:
        """The random factors, as wide as the widest site needs."""
        return self.r * (max(site.width_in for _, site in found) + self.rows(backbone, found))

    def rows(self, backbone: BackboneSpec, found: Sequence[tuple[int, SiteSpec]]) -> int:
        """How many rows B has for some sites, each with its layer."""
        return max(self.first_row(backbone.layers[layer], site.name) + site.width_out for layer, site in found)


def _stack_of(site: str) -> tuple[str, ...]:
    """The sites whose rows of B lie one below the other, if a site is one of these."""
    sublayer, _, name = site.rpartition(".")
    return tuple(f"{sublayer}.{each}" for each in _STACKED) if name in _STACKED else ()
