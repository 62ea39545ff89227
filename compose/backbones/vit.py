"""Pre-norm image encoders: ViT, under the module names that it has now and those of earlier versions."""

from __future__ import annotations

from compose.backbones.table import BackboneTable, StackTable, SubLayerTable

VIT = BackboneTable(
    modality="image",
    entry={"embeddings": "states"},
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
                    core="attention",
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

VIT_OLDER = BackboneTable(
    modality="image",
    entry={"embeddings": "states"},
    stacks=(
        StackTable(
            stack="encoder",
            layers="encoder.layer",
            sublayers=(
                SubLayerTable(
                    name="attn",
                    value="attention.output.dropout",
                    residual="layernorm_before",
                    linears={
                        "q": "attention.attention.query",
                        "k": "attention.attention.key",
                        "v": "attention.attention.value",
                        "o": "attention.output.dense",
                    },
                    body=("attention",),
                    core="attention.attention",
                ),
                SubLayerTable(
                    name="ffn",
                    value="output.dropout",
                    residual="layernorm_after",
                    linears={"in": "intermediate.dense", "out": "output.dense"},
                    body=("intermediate", "output"),
                ),
            ),
            batch_arguments=("attention_mask",),
        ),
    ),
)

TABLES = {"vit": (VIT, VIT_OLDER)}
