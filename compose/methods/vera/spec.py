"""The options of VeRA."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from compose.methods.config import FLAG, NUMBER, option
from compose.methods.linear.spec import LowRankConfig
from compose.specs import ActingSpec, SiteSpec


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

    Raises:
        ConfigError: with a problem for every option that is out of range.
    """

    method: ClassVar[str] = "vera"

    vera_d: float = option(0.1, NUMBER)
    vera_b: float = option(0.0, NUMBER)
    square: bool = option(False, FLAG)

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

    def shared_parameters(self, sites: list[SiteSpec]) -> int:
        """The random factors, as wide as the widest site needs."""
        return self.r * (max(site.width_in for site in sites) + max(site.width_out for site in sites))
