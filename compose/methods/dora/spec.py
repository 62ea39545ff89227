"""The options of DoRA and DVoRA."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from compose.methods.config import FLAG, option
from compose.methods.lora.spec import LoraConfig
from compose.methods.vera.spec import VeraConfig
from compose.specs import ActingSpec, SiteSpec


@dataclass(frozen=True)
class DoraConfig(LoraConfig):
    """Options of a DoRA adapter (Liu et al., 2024): those of LoRA, and how magnitudes are meant.

    Args:
        selfattn_lora, crossattn_lora, intermediate_lora, output_lora, attn_matrices, use_gating, init_weights_seed,
            leave_out, r, alpha, use_rslora, dropout, init_weights: as in `LoraConfig`.
        scaled_norm: a direction is W + scale b a over its norm; else, as AdapterHub has it, over that of W + b a.
        scaled_bias: the map's bias is multiplied with the magnitudes too, as AdapterHub has it.

    Raises:
        ConfigError: with a problem for every option that is out of range.
    """

    method: ClassVar[str] = "dora"

    scaled_norm: bool = option(True, FLAG)
    scaled_bias: bool = option(False, FLAG)

    def acting(self, layer: int, site: SiteSpec) -> ActingSpec:
        """A LoRA's, the magnitudes, and once a call the product of the factors."""
        norm = self.r * site.width_in * site.width_out
        return with_magnitudes(super().acting(layer, site), site, norm, (self.scaled_norm, self.scaled_bias))


@dataclass(frozen=True)
class DvoraConfig(VeraConfig):
    """Options of a DVoRA adapter (Liu et al., 2024): those of VeRA, and how magnitudes are meant.

    Args:
        selfattn_lora, crossattn_lora, intermediate_lora, output_lora, attn_matrices, use_gating, init_weights_seed,
            leave_out, r, alpha, use_rslora, dropout, vera_d, vera_b, square: as in `VeraConfig`.
        scaled_norm, scaled_bias: as in `DoraConfig`.

    Raises:
        ConfigError: with a problem for every option that is out of range.
    """

    method: ClassVar[str] = "dvora"

    scaled_norm: bool = option(True, FLAG)
    scaled_bias: bool = option(False, FLAG)

    def acting(self, layer: int, site: SiteSpec) -> ActingSpec:
        """A VeRA's, the magnitudes, and once a call the product of the factors."""
        norm = self.r * site.width_in * site.width_out
        norm += self.square * self.r * (self.r * site.width_in + site.width_out**2)
        return with_magnitudes(super().acting(layer, site), site, norm, (self.scaled_norm, self.scaled_bias))


def with_magnitudes(acting: ActingSpec, site: SiteSpec, norm: int, options: tuple[bool, ...]) -> ActingSpec:
    """A low-rank part's spec with what DoRA adds to it: its increment is no longer a product of factors.

    Args:
        acting: the spec.
        site: the site.
        norm: multiply-adds that the norms take, once a call.
        options: those of DoRA.
    """
    return replace(
        acting,
        parameters=acting.parameters + site.width_out,
        call_multiplies=acting.call_multiplies + norm,
        shape=(*acting.shape, *options),
        factored=False,
        reads_weights=True,
    )
