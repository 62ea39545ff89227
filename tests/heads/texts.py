"""A tokenizer, a backbone and a stand-in for a plan, made here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from compose.heads.build import build_head
from compose.heads.head import Head, HeadInput, Host
from compose.heads.output import MultiHeadOutput
from compose.specs import BackboneSpec

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghijklmnopqrstuvwxyz.,!?"]
PIECES += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"] + ["love", "new", "york", "##ing"]
LIMIT = 24


def tokenizer(**options: Any) -> PreTrainedTokenizerFast:
    """WordPiece over single letters and a few words."""
    rust = Tokenizer(models.WordPiece({piece: index for index, piece in enumerate(PIECES)}, unk_token="[UNK]"))
    rust.normalizer = normalizers.Lowercase()
    rust.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    rust.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    names = ["input_ids", "token_type_ids", "attention_mask"]
    fixed = {"tokenizer_object": rust, "model_max_length": LIMIT, "model_input_names": names}
    return PreTrainedTokenizerFast(**(fixed | special | options))


def bert() -> BertModel:
    """Random, in evaluation mode, with dropout."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(PIECES),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=40,
    )
    return BertModel(config).eval()


class Model(nn.Module):
    """A backbone, a tokenizer and heads."""

    def __init__(self, **heads: tuple[str, dict[str, Any]]) -> None:
        super().__init__()
        self.backbone = bert()
        self.tokenizer: Any = tokenizer()
        self.spec, self.device = BackboneSpec("bert", 16, (), vocabulary=len(PIECES)), torch.device("cpu")
        host = Host(self.spec)
        torch.manual_seed(1)
        self.heads = nn.ModuleDict(
            {name: build_head(name, kind, host, **options) for name, (kind, options) in heads.items()}
        )
        for parameter in self.heads.parameters():
            nn.init.normal_(parameter, std=0.5)
        self.eval()

    def forward(
        self,
        input_ids: Any,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        labels: Any = None,
    ) -> MultiHeadOutput:
        return Plan(self)(
            input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids, labels=labels
        )


class Plan:
    """Runs every head on the plain backbone."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.batches: list[dict[str, Any]] = []

    def heads_of(self, tasks: Sequence[str | int] | None = None) -> list[Head]:
        return [self.model.heads[name] for name in self._names(tasks)]  # type: ignore[misc]

    def _names(self, tasks: Sequence[str | int] | None) -> list[str]:
        return [name for name in self.model.heads if tasks is None or name in tasks]

    def __call__(self, *, tasks: Any = None, route: Any = None, labels: Any = None, **batch: Any) -> MultiHeadOutput:
        self.batches.append(batch)
        assert torch.is_grad_enabled() or not self.model.training
        states = self.model.backbone(**batch)
        mask, ids = batch["attention_mask"], batch["input_ids"]
        outputs = []
        for name in self._names(tasks):
            given = HeadInput(states.last_hidden_state, states.pooler_output, mask, ids)
            targets = None if labels is None else labels.get(name) if isinstance(labels, dict) else labels
            rows = None
            if route is not None:
                rows = torch.tensor([row for row, task in enumerate(route) if task == name], dtype=torch.long)
                given = HeadInput(*(None if value is None else value[rows] for value in given))
            output = self.model.heads[name](given, targets)
            output.rows = rows
            outputs.append((name, output))
        return MultiHeadOutput(outputs)
