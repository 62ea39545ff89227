"""Pre-norm encoder-decoders: T5."""

from __future__ import annotations

from compose.backbones.table import BackboneTable, StackTable, SubLayerTable


def _attention(name: str, index: int, module: str) -> SubLayerTable:
    path = f"layer.{index}"
    return SubLayerTable(
        name=name,
        value=f"{path}.dropout",
        residual=f"{path}.layer_norm",
        linears={linear: f"{path}.{module}.{linear}" for linear in ("q", "k", "v", "o")},
        body=(path,),
        core=f"{path}.{module}",
    )


def _feed_forward(index: int) -> SubLayerTable:
    path = f"layer.{index}"
    return SubLayerTable(
        name="ffn",
        value=f"{path}.dropout",
        residual=f"{path}.layer_norm",
        linears={
            # Gated variants (T5 1.1) have two maps in; the ungated half is the one adapted.
            "in": (f"{path}.DenseReluDense.wi", f"{path}.DenseReluDense.wi_1"),
            "out": f"{path}.DenseReluDense.wo",
        },
        body=(path,),
    )


_BATCH_ARGUMENTS = (
    "attention_mask",
    "position_bias",
    "encoder_hidden_states",
    "encoder_attention_mask",
    "encoder_decoder_position_bias",
)

T5 = BackboneTable(
    words_only=True,
    stacks=(
        StackTable(
            stack="encoder",
            module="encoder",
            layers="encoder.block",
            sublayers=(_attention("attn", 0, "SelfAttention"), _feed_forward(1)),
            batch_arguments=_BATCH_ARGUMENTS,
        ),
        StackTable(
            stack="decoder",
            module="decoder",
            layers="decoder.block",
            sublayers=(
                _attention("attn", 0, "SelfAttention"),
                _attention("cross.attn", 1, "EncDecAttention"),
                _feed_forward(2),
            ),
            batch_arguments=_BATCH_ARGUMENTS,
        ),
    ),
)

TABLES = {"t5": (T5,)}
