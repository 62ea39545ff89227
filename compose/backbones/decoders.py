"""Pre-norm decoders: GPT-2 and LLaMA."""

from __future__ import annotations

from compose.backbones.table import BackboneTable, Fused, StackTable, SubLayerTable

GPT2 = BackboneTable(
    causal=True,
    entry={"wte": "states", "wpe": "nothing", "drop": "unchanged"},
    stacks=(
        StackTable(
            stack="decoder",
            layers="h",
            sublayers=(
                SubLayerTable(
                    name="attn",
                    value="attn",
                    residual="ln_1",
                    linears={
                        "q": Fused("attn.c_attn", 0, 3),
                        "k": Fused("attn.c_attn", 1, 3),
                        "v": Fused("attn.c_attn", 2, 3),
                        "o": "attn.c_proj",
                    },
                    body=("attn",),
                    core="attn",
                ),
                SubLayerTable(
                    name="ffn",
                    value="mlp",
                    residual="ln_2",
                    linears={"in": "mlp.c_fc", "out": "mlp.c_proj"},
                    body=("mlp",),
                ),
            ),
            batch_arguments=(
                "attention_mask",
                "position_ids",
                "encoder_hidden_states",
                "encoder_attention_mask",
            ),
        ),
    ),
)

LLAMA = BackboneTable(
    causal=True,
    entry={"embed_tokens": "states"},
    stacks=(
        StackTable(
            stack="decoder",
            layers="layers",
            sublayers=(
                SubLayerTable(
                    name="attn",
                    value="self_attn",
                    residual="input_layernorm",
                    linears={
                        "q": "self_attn.q_proj",
                        "k": "self_attn.k_proj",
                        "v": "self_attn.v_proj",
                        "o": "self_attn.o_proj",
                    },
                    body=("self_attn",),
                    core="self_attn",
                ),
                SubLayerTable(
                    name="ffn",
                    value="mlp",
                    residual="post_attention_layernorm",
                    linears={"in": "mlp.up_proj", "out": "mlp.down_proj"},
                    body=("mlp",),
                ),
            ),
            batch_arguments=("attention_mask", "position_ids", "position_embeddings"),
        ),
    ),
)

TABLES = {"gpt2": (GPT2,), "llama": (LLAMA,)}
