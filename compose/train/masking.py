"""Which tokens of a row are hidden from the backbone, so that a head learns to predict them."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compose.errors import InputError
from compose.heads.spec import IGNORED, HeadConfig, MaskedLMConfig

if TYPE_CHECKING:
    from compose.runtime.model import Model

MASKED, REPLACED = 0.8, 0.9
"""Of the tokens that are chosen the first 80% are masked, the next 10% another token, and the rest stays."""


@dataclass(frozen=True)
class Masking:
    """Masks some tokens of rows (BERT; Devlin et al., 2019).

    What is drawn depends on a key alone, so that it is the same however rows are divided among passes and processes,
    and after an interruption; transformers' collator draws for a whole padded batch at a time.

    Args:
        probability: the share of a row's own tokens that is chosen, at least one of them.
        mask: the id of the mask token.
        special: ids of tokens that are never chosen and never stand in for others.
        vocabulary: how many tokens there are.
    """

    probability: float
    mask: int
    special: frozenset[int]
    vocabulary: int

    def __call__(self, row: Mapping[str, Any], tasks: tuple[str, ...], key: str) -> dict[str, Any]:
        """A row with some tokens masked.

        Args:
            row: with `input_ids`, a list.
            tasks: that learn from it.
            key: decides what is drawn.

        Returns:
            The row, its labels by task the tokens that were chosen, -100 elsewhere.
        """
        draw = random.Random(key)
        given = list(row["input_ids"])
        shown, labels = list(given), [IGNORED] * len(given)
        own = [place for place, token in enumerate(given) if token not in self.special]
        count = min(len(own), max(1, round(self.probability * len(own))))
        for place in sorted(draw.sample(own, count)):
            labels[place] = given[place]
            shown[place] = self._shown(given[place], draw)
        return {**row, "input_ids": shown, "labels": dict.fromkeys(tasks, labels)}

    def _shown(self, token: int, draw: random.Random) -> int:
        """What the backbone sees in the place of a chosen token."""
        lot = draw.random()
        if lot >= MASKED:
            return self._other(draw) if lot < REPLACED else token
        return self.mask

    def _other(self, draw: random.Random) -> int:
        while (token := draw.randrange(self.vocabulary)) in self.special:
            pass
        return token


def masking_of(model: Model, config: HeadConfig | None) -> Masking | None:
    """How the rows of a head's task are masked; None if they are not.

    Args:
        model: whose tokenizer and backbone.
        config: of the head.

    Raises:
        InputError: the tokenizer has no mask token.
    """
    if not isinstance(config, MaskedLMConfig):
        return None
    tokenizer = model.tokenizer
    if tokenizer.mask_token_id is None:
        raise InputError(
            "the backbone's tokenizer has no mask token, which masked language modelling needs",
            why=f"{model.spec.architecture} was not trained to predict masked tokens",
            hint="a causal_lm head",
        )
    known = min(len(tokenizer), model.spec.vocabulary or len(tokenizer))
    return Masking(config.mask_probability, tokenizer.mask_token_id, frozenset(tokenizer.all_special_ids), known)
