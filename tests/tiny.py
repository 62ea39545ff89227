"""Tiny random backbones of every architecture, and inputs for them. Made here, never fetched."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    AutoModel,
    BertConfig,
    DistilBertConfig,
    GPT2Config,
    LlamaConfig,
    PreTrainedModel,
    RobertaConfig,
    T5Config,
    ViTConfig,
)

from compose.runtime.attach import attach
from compose.runtime.model import Model

VOCABULARY = 50
_SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}

CONFIGS: dict[str, Any] = {
    "bert": lambda layers: BertConfig(**{**_SMALL, "num_hidden_layers": layers}, max_position_embeddings=64),
    "roberta": lambda layers: RobertaConfig(
        **{**_SMALL, "num_hidden_layers": layers}, max_position_embeddings=66, pad_token_id=1
    ),
    "distilbert": lambda layers: DistilBertConfig(
        vocab_size=VOCABULARY,
        dim=32,
        n_layers=layers,
        n_heads=4,
        hidden_dim=64,
        dropout=0.0,
        attention_dropout=0.0,
        max_position_embeddings=64,
    ),
    "gpt2": lambda layers: GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=32,
        n_layer=layers,
        n_head=4,
        n_inner=64,
        n_positions=64,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
    ),
    "llama": lambda layers: LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
    ),
    "t5": lambda layers: T5Config(
        vocab_size=VOCABULARY,
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=layers,
        num_heads=4,
        dropout_rate=0.0,
        decoder_start_token_id=0,
    ),
    "vit": lambda layers: ViTConfig(
        hidden_size=32,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=64,
        image_size=16,
        patch_size=4,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    ),
}


def backbone(
    architecture: str = "bert", layers: int = 2, dtype: torch.dtype = torch.float64, **options: Any
) -> PreTrainedModel:
    """A base model with random weights, in evaluation mode."""
    torch.manual_seed(0)
    model = AutoModel.from_config(CONFIGS[architecture](layers), **options)
    return model.to(dtype).eval()


def model(architecture: str = "bert", layers: int = 2, dtype: torch.dtype = torch.float64, **options: Any) -> Model:
    """The same with adapters within reach."""
    return attach(backbone(architecture, layers, dtype, **options))


def randomize(module: torch.nn.Module, seed: int = 1, scale: float = 0.3) -> None:
    """Draws every weight of a module, so that no adapter is the identity."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * scale)


def inputs(
    architecture: str = "bert",
    rows: int = 3,
    tokens: int = 7,
    padded: bool = False,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> dict[str, torch.Tensor]:
    """A batch for a backbone; with `padded` all rows but the first end in padding of different lengths."""
    generator = torch.Generator().manual_seed(seed)
    if architecture == "vit":
        return {"pixel_values": torch.randn((rows, 3, 16, 16), generator=generator, dtype=dtype)}
    ids = torch.randint(2, VOCABULARY, (rows, tokens), generator=generator)
    batch = {"input_ids": ids}
    if padded:
        mask = torch.ones_like(ids)
        for row in range(1, rows):
            mask[row, tokens - 1 - (row % (tokens - 1)) :] = 0
        batch["attention_mask"] = mask
    if architecture == "t5":
        batch["decoder_input_ids"] = torch.randint(2, VOCABULARY, (rows, tokens - 2), generator=generator)
    return batch
