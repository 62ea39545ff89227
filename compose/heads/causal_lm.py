"""The next token of every token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from compose.errors import ConfigError
from compose.heads.head import Head, HeadInput, Host, activation, linear
from compose.heads.labels import check_shape, class_ids, cross_entropy
from compose.heads.spans import Source, Window
from compose.heads.spec import CausalLMConfig
from compose.specs import HeadSpec

TOP = 5


class CausalLMHead(Head):
    """Logits `[rows, tokens, vocabulary]`. The labels are the input ids, -100 where not counted.

    What invertible adapters do to the embeddings is undone before the map to the vocabulary, as in MAD-X.
    """

    config: CausalLMConfig
    per_token: ClassVar[bool] = True
    reads_inverse: ClassVar[bool] = True

    def __init__(self, name: str, config: CausalLMConfig, host: Host) -> None:
        super().__init__(name, config)
        vocabulary = config.vocabulary or host.spec.vocabulary
        if not vocabulary:
            raise ConfigError("the backbone has no vocabulary", where=f"head '{name}'", hint="vocabulary=")
        width = host.spec.hidden_size
        inner = (config.embedding_size or width) if config.layers > 1 else width
        eps = host.norm_eps if config.layer_norm_eps is None else config.layer_norm_eps
        self.inner_width = inner
        widths = [width] + [inner] * (config.layers - 1)
        self.dense = nn.ModuleList(
            linear(before, inner, True, host.deviation) for before in widths[: config.layers - 1]
        )
        self.activation = activation(config.activation)
        self.norm = nn.ModuleList(
            nn.LayerNorm(inner, eps=eps) for _ in range(config.layers - 1 if config.layer_norm else 0)
        )
        self.out = linear(inner, vocabulary, config.bias, host.deviation)
        embeddings = host.embeddings
        if embeddings is not None and embeddings.shape == self.out.weight.shape:
            with torch.no_grad():
                self.out.weight.copy_(embeddings)

    @property
    def spec(self) -> HeadSpec:
        maps = [*self.dense, self.out]
        multiplies = sum(each.weight.numel() for each in maps if isinstance(each, nn.Linear))
        return HeadSpec(self.name, self.config.kind, token_multiplies=multiplies)

    def logits(self, inputs: HeadInput) -> Tensor:
        states = inputs.states.to(self.out.weight.dtype)
        for index, dense in enumerate(self.dense):
            states = self.activation(dense(states))
            if self.config.layer_norm:
                states = self.norm[index](states)
        if inputs.inverse is not None:
            states = inputs.inverse(states)
        return self.out(states)

    def loss(self, logits: Tensor, labels: Tensor, inputs: HeadInput) -> Tensor:
        check_shape(labels, [tuple(logits.shape[:2])], self.where)
        ids = class_ids(labels, logits.shape[-1], (), self.where)
        if self.config.shift_labels:
            logits, ids = logits[:, :-1], ids[:, 1:]
        return cross_entropy(logits, ids)

    def counted(self, labels: Tensor) -> float:
        return super().counted(labels[:, 1:] if self.config.shift_labels else labels)

    def decode(self, windows: Sequence[Window], source: Source) -> dict[str, Any]:
        best = windows[-1].logits[-1].float().softmax(-1).topk(min(TOP, self.out.out_features))
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return {"next": [{"token": source.token(token), "id": token, "probability": value} for token, value in pairs]}
