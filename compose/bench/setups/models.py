"""Backbones with random weights, adapters on them, and batches for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModel, BertConfig, BertTokenizer, PreTrainedModel

from compose.dsl import Drop, Expression, Fuse, Parallel, Route, own_name
from compose.runtime.attach import attach
from compose.runtime.model import Model

REDUCTION = 16
LABELS = 3
PADDING = 5
"""Ids below it are kept for padding and the like."""

BRANCHING = {"parallel": Parallel, "route": Route}
"""Setups of one branch for each adapter, each with a head."""

Told = Mapping[str, Any]
"""What a worker is told: the contestant's options, with sizes, device and threads."""


def plain_backbone(told: Told, attention: str) -> PreTrainedModel:
    """The backbone alone, with random weights, in evaluation mode."""
    config = BertConfig(**told["config"])
    model: Any = AutoModel.from_config(config, attn_implementation=attention)
    if told["setup"] == "plain" and told.get("precision") == "bf16":
        model = model.to(torch.bfloat16)
    backbone: PreTrainedModel = model.to(told["device"]).eval()
    return backbone


def tokenizer(told: Told) -> BertTokenizer:
    """WordPiece over single letters: any text has tokens, and rows can be padded."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters, *(f"##{letter}" for letter in letters), *".,!?"]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    return BertTokenizer(vocab=vocabulary, model_max_length=told["config"]["max_position_embeddings"])


def our_model(told: Told, attention: str, tokenizer: Any = None) -> Model:
    """The same backbone with adapters within reach, in the precision that is told."""
    options = {"precision": told["precision"]} if "precision" in told else {}
    return attach(plain_backbone(told, attention), tokenizer, **options)


def batch_of(told: Told, rows: int | None = None, tokens: int | None = None) -> dict[str, Any]:
    """Random tokens without padding, [rows, tokens]; the same for every contestant."""
    shape = (rows or told["rows"], tokens or told["tokens"])
    ids = torch.randint(PADDING, told["config"]["vocab_size"], shape, generator=torch.Generator().manual_seed(0))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return {name: value.to(told["device"]) for name, value in batch.items()}


def labels_of(told: Told) -> Tensor:
    """A random label for each row."""
    labels = torch.randint(0, LABELS, (told["rows"],), generator=torch.Generator().manual_seed(1))
    return labels.to(told["device"])


def expression_of(model: Model, told: Told) -> Expression:
    """What a contestant runs, over adapters, fusion and heads that are added to the model for it."""
    kind, names = told["setup"], [f"a{index}" for index in range(told.get("adapters", 1))]
    for name in names:
        model.add_adapter(name, "seq_bn", reduction_factor=REDUCTION)
    if kind == "fuse":
        block = Fuse(*names, name="task")
        model.add_fusion(block)
        add_heads(model, ["task"])
        return block
    dropped = told.get("drop", 0)
    parts: list[Expression] = [Drop(name, first=dropped) if dropped else name for name in names]
    if kind in BRANCHING:
        add_heads(model, names)
        return BRANCHING[kind](dict(zip(names, parts, strict=True)))
    if "heads" in told:
        tasks = [f"t{index}" for index in range(told["heads"])]
        add_heads(model, tasks)
        return Parallel(dict.fromkeys(tasks, parts[0]))
    add_heads(model, [own_name(parts[0]) or ""])
    return parts[0]


def add_heads(model: Model, names: list[str]) -> None:
    """A head of some labels for each task, on the first token."""
    for name in names:
        model.add_head(name, "classification", labels=LABELS, pooling="first")
    model.to(model.device)
