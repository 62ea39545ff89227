"""The options of LoRA."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from compose.methods.config import choice, option
from compose.methods.linear.spec import LowRankConfig


@dataclass(frozen=True)
class LoraConfig(LowRankConfig):
    """Options of a LoRA adapter (Hu et al., 2021); the names are AdapterHub's.

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

    Raises:
        ConfigError: with a problem for every option that is out of range.
    """

    method: ClassVar[str] = "lora"

    init_weights: str = option("lora", choice("lora", "bert"))
