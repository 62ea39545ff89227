"""What fresh heads and fusions take from the backbone that they are for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from compose.heads.head import Host

if TYPE_CHECKING:
    from compose.runtime.model import Model

ATTENTION_DROPOUT = ("attention_probs_dropout_prob", "attention_dropout", "attn_pdrop", "dropout_rate")
"""What architectures call the rate of dropout on their attention."""


def host_of(model: Model) -> Host:
    """What heads take from a model's backbone."""
    return Host.of(model.spec, model.config, embeddings_of(model))


def embeddings_of(model: Model) -> Tensor | None:
    """The backbone's input embeddings, `[vocabulary, width]`; None of images."""
    backbone: Any = model.backbone
    weight: Tensor | None = backbone.get_input_embeddings().weight if model.spec.modality == "text" else None
    return weight


def attention_dropout(config: Any) -> float:
    """The rate of dropout on the backbone's attention, which fusions use by default."""
    rates = (getattr(config, name, None) for name in ATTENTION_DROPOUT)
    return next((float(rate) for rate in rates if isinstance(rate, int | float)), 0.0)
