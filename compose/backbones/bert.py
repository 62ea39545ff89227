"""Post-norm encoders of the BERT family."""

from __future__ import annotations

from compose.backbones.table import BackboneTable, StackTable, SubLayerTable

_BERT_SUBLAYERS = (
    SubLayerTable(
        name="attn",
        value="attention.output.dropout",
        residual="attention.output",
        residual_argument="input_tensor",
        norm="attention.output.LayerNorm",
        linears={
            "q": "attention.self.query",
            "k": "attention.self.key",
            "v": "attention.self.value",
            "o": "attention.output.dense",
        },
        body=("attention",),
        core="attention.self",
    ),
    SubLayerTable(
        name="ffn",
        value="output.dropout",
        residual="output",
        residual_argument="input_tensor",
        norm="output.LayerNorm",
        linears={"in": "intermediate.dense", "out": "output.dense"},
        body=("intermediate", "output"),
    ),
)

BERT = BackboneTable(
    stacks=(
        StackTable(
            stack="encoder",
            module="encoder",
            layers="encoder.layer",
            sublayers=_BERT_SUBLAYERS,
            batch_arguments=("attention_mask", "encoder_hidden_states", "encoder_attention_mask"),
        ),
    ),
    entry={"embeddings": "states"},
)

DISTILBERT = BackboneTable(
    stacks=(
        StackTable(
            stack="encoder",
            module="transformer",
            layers="transformer.layer",
            sublayers=(
                SubLayerTable(
                    name="attn",
                    value="attention",
                    residual="attention",
                    norm="sa_layer_norm",
                    linears={
                        "q": "attention.q_lin",
                        "k": "attention.k_lin",
                        "v": "attention.v_lin",
                        "o": "attention.out_lin",
                    },
                    body=("attention",),
                    core="attention",
                    # AdapterHub adds its mask, in which a virtual token has a 1, to the scores: in batches with
                    # padding, where what adapters learnt rests on it. Here a row does not depend on its batch mates.
                    prefix_score=1.0,
                ),
                SubLayerTable(
                    name="ffn",
                    value="ffn",
                    residual="ffn",
                    norm="output_layer_norm",
                    linears={"in": "ffn.lin1", "out": "ffn.lin2"},
                    body=("ffn",),
                ),
            ),
            batch_arguments=("attention_mask",),
        ),
    ),
    entry={"embeddings": "states"},
)

TABLES = {"bert": (BERT,), "roberta": (BERT,), "xlm-roberta": (BERT,), "distilbert": (DISTILBERT,)}
