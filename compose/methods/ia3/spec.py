"""The options of IA3."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from compose.methods.config import FLAG, NUMBER, choices, option
from compose.methods.linear.spec import LinearConfig
from compose.specs import ActingSpec, SiteSpec


@dataclass(frozen=True)
class Ia3Config(LinearConfig):
    """Options of an IA3 adapter (Liu et al., 2022); the names are AdapterHub's.

    By default it scales keys, values and the feed-forward block's hidden width. Where that block is gated (LLaMA),
    its first map is the one that the gate is multiplied with, so that this too scales what the last map reads.

    Args:
        selfattn_lora: acts on the self-attention's maps that `attn_matrices` lists.
        crossattn_lora: likewise on the decoder's cross-attention; None: as `selfattn_lora`.
        intermediate_lora: acts on the feed-forward block's first map.
        output_lora: acts on its last map.
        attn_matrices: which of q, k, v, o.
        use_gating: the scaling is multiplied by a learned gate, averaged over the tokens, in place of `alpha`.
        init_weights_seed: seed of a gate's weights; the global generator otherwise.
        leave_out: layers without the adapter.
        alpha: a constant that all scalings are multiplied by.

    Raises:
        ConfigError: with a problem for every option that is out of range.
    """

    method: ClassVar[str] = "ia3"

    intermediate_lora: bool = option(True, FLAG)
    attn_matrices: tuple[str, ...] = option(("k", "v"), choices("q", "k", "v", "o"))
    alpha: float = option(1.0, NUMBER)

    @property
    def scale(self) -> float:
        """What the scalings are multiplied by; the gate takes its place."""
        return 1.0 if self.use_gating else self.alpha

    def acting(self, layer: int, site: SiteSpec) -> ActingSpec:
        """A factor for every channel: no products of matrices but the gate's."""
        gate = site.width_in * self.use_gating
        return ActingSpec(
            layer=layer,
            site=site.name,
            rank=1,
            parameters=site.width_out + gate + self.use_gating,
            multiplies=gate,
            increment_multiplies=gate,
            shape=(self.method, site.width_in, site.width_out, self.use_gating),
            factored=False,
        )
