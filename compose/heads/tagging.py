"""A label for every token; people see a tag for every word, and entities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from compose.dropout import Dropout
from compose.heads.head import Head, HeadInput, Host, activation, linear
from compose.heads.labels import check_shape, class_ids, cross_entropy
from compose.heads.spans import Source, Window, entities
from compose.heads.spec import IGNORED, TaggingConfig
from compose.specs import HeadSpec


class TaggingHead(Head):
    """Logits `[rows, tokens, labels]`. Labels at padded positions are not counted."""

    config: TaggingConfig
    per_token: ClassVar[bool] = True
    needs_words: ClassVar[bool] = True

    def __init__(self, name: str, config: TaggingConfig, host: Host) -> None:
        super().__init__(name, config)
        width = host.spec.hidden_size
        self.dropout = Dropout(host.dropout if config.dropout is None else config.dropout)
        self.dense = nn.ModuleList(linear(width, width, True, host.deviation) for _ in range(config.layers - 1))
        self.activation = activation(config.activation)
        self.out = linear(width, len(config.labels), True, host.deviation)

    @property
    def spec(self) -> HeadSpec:
        width = self.out.in_features
        multiplies = len(self.dense) * width * width + width * self.out.out_features
        return HeadSpec(self.name, self.config.kind, token_multiplies=multiplies)

    @property
    def weighs_classes(self) -> bool:
        return True

    def logits(self, inputs: HeadInput) -> Tensor:
        states = inputs.states.to(self.out.weight.dtype)
        for dense in self.dense:
            states = self.activation(dense(self.dropout(states)))
        return self.out(self.dropout(states))

    def loss(self, logits: Tensor, labels: Tensor, inputs: HeadInput) -> Tensor:
        check_shape(labels, [tuple(logits.shape[:2])], self.where)
        ids = class_ids(labels, logits.shape[-1], self.labels, self.where)
        if inputs.attention_mask is not None:
            ids = ids.masked_fill(inputs.attention_mask == 0, IGNORED)
        return cross_entropy(logits, ids, self.class_weights)

    def decode(self, windows: Sequence[Window], source: Source) -> dict[str, Any]:
        """Each word's tag is its first token's, from the window in which that is farthest from the edges."""
        tags: list[str | None] = [None] * len(source.words)
        scores = [0.0] * len(source.words)
        farthest = [-1] * len(source.words)
        for window in windows:
            probabilities = window.logits.float().softmax(-1)
            best = probabilities.max(-1)
            indices, values = best.indices.tolist(), best.values.tolist()
            last = len(window.words) - 1
            seen: set[int] = set()
            for position, word in enumerate(window.words):
                if word is None or word in seen:
                    continue
                seen.add(word)
                distance = min(position, last - position)
                if distance > farthest[word]:
                    farthest[word] = distance
                    tags[word] = self.labels[indices[position]]
                    scores[word] = values[position]
        found = {"entities": entities(tags, scores, source.words, source.texts)}
        return found | {"tags": tags} if source.given_words else found
