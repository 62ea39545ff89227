"""The place in a text where the answer to a question stands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from compose.errors import InputError
from compose.heads.answers import CONTEXT, best_answer
from compose.heads.head import HeadInput, Host
from compose.heads.labels import check_shape, cross_entropy
from compose.heads.per_token import PerTokenHead
from compose.heads.spans import Source, Window, trimmed
from compose.heads.spec import IGNORED, QuestionAnsweringConfig


class QuestionAnsweringHead(PerTokenHead):
    """Logits `[rows, tokens, 2]`: how likely the answer starts, and how likely it ends, at each token.

    Inputs are pairs of a question and the text that has its answer. A label is the position of the answer's first
    token and of its last, `[rows, 2]`; (0, 0), the first token, is that there is no answer. The loss is the mean of
    the two cross entropies (Devlin et al., 2019), over the row's own tokens: transformers' and AdapterHub's loss sees
    padding too, and so differs with the length of the longest row beside it. Positions past the row are not counted.
    """

    config: QuestionAnsweringConfig
    needs_pair: ClassVar[bool] = True
    positions: ClassVar[int] = 2

    def __init__(self, name: str, config: QuestionAnsweringConfig, host: Host) -> None:
        super().__init__(name, config, host, self.positions)

    def loss(self, logits: Tensor, labels: Tensor, inputs: HeadInput) -> Tensor:
        rows, tokens, _ = logits.shape
        check_shape(labels, [(rows, self.positions)], self.where)
        places = self._places(labels, tokens)
        if inputs.attention_mask is not None:
            padding = inputs.attention_mask == 0
            places = places.masked_fill(padding.gather(1, places.clamp(min=0)), IGNORED)
            logits = logits.masked_fill(padding.unsqueeze(-1), torch.finfo(logits.dtype).min)
        starts, ends = (cross_entropy(logits[..., at], places[:, at]) for at in range(self.positions))
        return (starts + ends) / 2

    def _places(self, labels: Tensor, tokens: int) -> Tensor:
        """Positions as int64, those past the row not counted.

        Raises:
            InputError: they are fractions, or below 0.
        """
        if labels.is_floating_point() or labels.is_complex():
            what = f"labels of type {labels.dtype}, but positions of tokens are needed"
            raise InputError(what, where=self.where, hint="labels.long()")
        labels = labels.long()
        if not torch.compiler.is_compiling():  # a compiled graph cannot look at values
            wrong = (labels < 0) & (labels != IGNORED)
            if wrong.any():
                place = wrong.nonzero()[0].tolist()
                raise InputError(
                    f"label {int(labels[tuple(place)])} at {place} is no position",
                    where=self.where,
                    why=f"positions go from 0, which is no answer; {IGNORED} is not counted",
                )
        return labels.masked_fill(labels >= tokens, IGNORED)

    def counted(self, labels: Tensor) -> float:
        return super().counted(labels) / self.positions

    def decode(self, windows: Sequence[Window], source: Source) -> dict[str, Any]:
        """The best answer in any of the windows, with its place in the second text."""
        best = best_answer(windows, self.config.max_answer_length, self.config.unanswerable)
        text = source.texts[CONTEXT]
        start, end = (None, None) if best.span is None else trimmed(text, *best.span)
        found = {
            "answer": text[start:end] if best.span else "",
            "start": start,
            "end": end,
            "score": best.score,
            "probability": best.probability,
        }
        return {**found, "no_answer": best.none} if self.config.unanswerable else found
