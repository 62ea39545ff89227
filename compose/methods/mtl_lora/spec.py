"""The options of MTL-LoRA."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from compose.methods.config import COUNT, Option, choice, is_number, option
from compose.methods.linear.spec import LowRankConfig
from compose.specs import ActingSpec, SiteSpec

POSITIVE = Option(lambda value: is_number(value) and value > 0, "a number above 0", normal=float)


@dataclass(frozen=True)
class MtlLoraConfig(LowRankConfig):
    """Options of an MTL-LoRA adapter (Yang et al., 2024); the names are AdapterHub's.

    Args:
        selfattn_lora: acts on the self-attention's maps that `attn_matrices` lists.
        crossattn_lora: likewise on the decoder's cross-attention; None: as `selfattn_lora`.
        intermediate_lora: acts on the feed-forward block's first map.
        output_lora: acts on its last map.
        attn_matrices: which of q, k, v, o.
        use_gating: a learned gate, averaged over the tokens, in place of the scaling.
        init_weights_seed: seed of every part's weights; the global generator otherwise.
        leave_out: layers without the adapter.
        r: rank.
        alpha: the increment is scaled by alpha / r.
        use_rslora: it is scaled by alpha / sqrt(r) instead (Kalajdzievski, 2023).
        dropout: on what is read.
        init_weights: `lora` (starts as no change) or `bert`.
        n_up_projection: number of up-projections.
        task_specific_matrix_type: the matrix between the factors: `singular_values` (diagonal) or `linear` (full).
        weights_sharpness: temperature of the softmax that weighs the up-projections.

    Raises:
        ConfigError: with a problem for every option that is out of range.
    """

    method: ClassVar[str] = "mtl_lora"

    init_weights: str = option("lora", choice("lora", "bert"))
    n_up_projection: int = option(1, COUNT)
    task_specific_matrix_type: str = option("singular_values", choice("singular_values", "linear"))
    weights_sharpness: float = option(0.05, POSITIVE)

    def acting(self, layer: int, site: SiteSpec) -> ActingSpec:
        """The up-projections are mixed before anything is multiplied with them."""
        acting = super().acting(layer, site)
        full = self.task_specific_matrix_type == "linear"
        further = self.r**2 * full
        more = (self.n_up_projection - 1) * self.r * site.width_out + self.n_up_projection
        return replace(
            acting,
            parameters=acting.parameters + more + (further or self.r),
            multiplies=acting.multiplies + further,
            increment_multiplies=acting.increment_multiplies + further,
            shape=(*acting.shape, self.n_up_projection, full, self.weights_sharpness),
        )
