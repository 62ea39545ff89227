"""The next token of every token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from compose.heads.spans import Source, Window
from compose.heads.spec import IGNORED, CausalLMConfig
from compose.heads.vocabulary import VocabularyHead, likeliest


class CausalLMHead(VocabularyHead):
    """Logits of what follows each token. The labels are the input ids, -100 where not counted."""

    config: CausalLMConfig

    def aligned(self, labels: Tensor) -> Tensor:
        if not self.config.shift_labels:
            return labels
        return torch.cat([labels[:, 1:], torch.full_like(labels[:, :1], IGNORED)], 1)

    def decode(self, windows: Sequence[Window], source: Source) -> dict[str, Any]:
        return {"next": likeliest(windows[-1].logits[-1].float().softmax(-1), source)}
