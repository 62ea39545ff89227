"""A label for every token; people see a tag for every word, and entities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from compose.heads.head import HeadInput, Host, Weighs
from compose.heads.labels import check_shape, class_ids, cross_entropy
from compose.heads.per_token import PerTokenHead
from compose.heads.spans import Source, Window, entities
from compose.heads.spec import IGNORED, TaggingConfig


class TaggingHead(PerTokenHead):
    """Logits `[rows, tokens, labels]`. Labels at padded positions are not counted."""

    config: TaggingConfig

    def __init__(self, name: str, config: TaggingConfig, host: Host) -> None:
        super().__init__(name, config, host, len(config.labels))

    @property
    def weighs(self) -> Weighs | None:
        return "rows"

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
