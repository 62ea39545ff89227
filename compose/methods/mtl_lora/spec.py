"""The options of MTL-LoRA."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from compose.methods.config import COUNT, Option, choice, is_number, option
from compose.methods.lora.spec import LoraConfig
from compose.specs import ActingSpec, SiteSpec

POSITIVE = Option(lambda value: is_number(value) and value > 0, "a number above 0", normal=float)


@dataclass(frozen=True)
class MtlLoraConfig(LoraConfig):
    """Options of an MTL-LoRA adapter (Yang et al., 2024): those of LoRA, and what tasks have of their own.

    Args:
        selfattn_lora, crossattn_lora, intermediate_lora, output_lora, attn_matrices, use_gating, init_weights_seed,
            leave_out, r, alpha, use_rslora, dropout, init_weights: as in `LoraConfig`.
        n_up_projection: number of up-projections.
        task_specific_matrix_type: the matrix between the factors: `singular_values` (diagonal) or `linear` (full).
        weights_sharpness: temperature of the softmax that weighs the up-projections.

    Raises:
        ConfigError: with a problem for every option that is out of range.
    """

    method: ClassVar[str] = "mtl_lora"

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
