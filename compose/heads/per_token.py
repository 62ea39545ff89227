"""What heads with a few logits for each token share: maps of the backbone's width, and one to the logits."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from compose.dropout import Dropout
from compose.heads.head import Head, HeadInput, Host, activation, linear
from compose.heads.spec import QuestionAnsweringConfig, TaggingConfig
from compose.specs import HeadSpec


class PerTokenHead(Head):
    """Logits `[rows, tokens, width]`. Abstract.

    Args:
        name: of the head.
        config: its options.
        host: the backbone.
        width: how many logits a token has.
    """

    per_token: ClassVar[bool] = True
    needs_words: ClassVar[bool] = True

    def __init__(self, name: str, config: TaggingConfig | QuestionAnsweringConfig, host: Host, width: int) -> None:
        super().__init__(name, config)
        inner = host.spec.hidden_size
        self.dropout = Dropout(host.dropout if config.dropout is None else config.dropout)
        self.dense = nn.ModuleList(linear(inner, inner, True, host.deviation) for _ in range(config.layers - 1))
        self.activation = activation(config.activation)
        self.out = linear(inner, width, True, host.deviation)

    @property
    def spec(self) -> HeadSpec:
        width = self.out.in_features
        multiplies = len(self.dense) * width * width + width * self.out.out_features
        return HeadSpec(self.name, self.config.kind, token_multiplies=multiplies)

    def logits(self, inputs: HeadInput) -> Tensor:
        states = inputs.states.to(self.out.weight.dtype)
        for dense in self.dense:
            states = self.activation(dense(self.dropout(states)))
        return self.out(self.dropout(states))
