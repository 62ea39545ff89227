"""Pre-norm image encoders: ViT (module names of transformers 5; version 4 names differ, see `io`)."""

from __future__ import annotations

from compose.backbones.table import BackboneTable, StackTable, SubLayerTable

VIT = BackboneTable(
    modality="image",
    stacks=(
        StackTable(
            stack="encoder",
            layers="layers",
            sublayers=(
                SubLayerTable(
                    name="attn",
                    value="attention",
                    residual="layernorm_before",
                    linears={
                        "q": "attention.q_proj",
                        "k": "attention.k_proj",
                        "v": "attention.v_proj",
                        "o": "attention.o_proj",
                    },
                    body=("attention",),
                ),
                SubLayerTable(
                    name="ffn",
                    value="mlp",
                    residual="layernorm_after",
                    linears={"in": "mlp.fc1", "out": "mlp.fc2"},
                    body=("mlp",),
                ),
            ),
            batch_arguments=("attention_mask",),
        ),
    ),
)

TABLES = {"vit": VIT}
