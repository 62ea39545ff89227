"""The tokens that are hidden behind masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from compose.heads.spans import Source, Window
from compose.heads.spec import MaskedLMConfig
from compose.heads.vocabulary import VocabularyHead, likeliest


class MaskedLMHead(VocabularyHead):
    """Logits of the token at each position (Devlin et al., 2019).

    The labels are the ids of the tokens before some were masked, -100 where none was chosen. `decode` answers for each
    mask token of a text; those of a text in several windows by the mean of what the windows say.
    """

    config: MaskedLMConfig

    def decode(self, windows: Sequence[Window], source: Source) -> dict[str, Any]:
        said: dict[int, list[torch.Tensor]] = {}
        for window in windows:
            for place, row in window.masked.items():
                said.setdefault(place, []).append(window.logits[row].float().softmax(-1))
        return {"masked": [likeliest(torch.stack(said[place]).mean(0), source) for place in sorted(said)]}
