"""Answers that stand in a text: from characters to tokens, and the best one among windows' logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from compose.heads.spans import Token, Window, trimmed

CONTEXT = 1
"""Which text of a pair has the answer; the other one asks."""

NO_ANSWER = 0
"""The position of the token that stands for no answer: the first, as BERT's `[CLS]`."""

MANY = 2**32
"""More than a text has characters."""


class Best(NamedTuple):
    """The best answer.

    Args:
        span: its characters; None: there is none.
        score: the sum of the logits of its start and its end.
        probability: its share among all answers that there could be.
        none: the share of there being none; 0 where that is not asked.
    """

    span: tuple[int, int] | None
    score: float
    probability: float
    none: float


def answer_positions(tokens: Sequence[Token], start: int, end: int, text: str) -> tuple[int, int] | None:
    """The positions of the first and the last token of an answer.

    Args:
        tokens: of a row.
        start: the answer's first character in the context.
        end: the character after its last.
        text: the context.

    Returns:
        None where the row does not have all of it.

    >>> tokens = [Token(None, None, (0, 0)), Token(0, 0, (0, 2)), Token(1, 0, (0, 2)), Token(1, 1, (3, 7))]
    >>> answer_positions(tokens, 3, 7, "at noon"), answer_positions(tokens[:3], 3, 7, "at noon")
    ((3, 3), None)
    """
    start, end = trimmed(text, start, end)
    inside = [
        place
        for place, token in enumerate(tokens)
        if token.sequence == CONTEXT and token.span[0] < end and start < token.span[1]
    ]
    if not inside or tokens[inside[0]].span[0] > start or tokens[inside[-1]].span[1] < end:
        return None
    return inside[0], inside[-1]


def best_answer(windows: Sequence[Window], longest: int, unanswerable: bool) -> Best:
    """The answer with the highest score in any of the windows of an input.

    An answer that several windows show has the highest of its scores, and no answer the lowest: it takes all windows
    to say that there is none.

    Args:
        windows: each with logits `[tokens, 2]`, of starts and of ends.
        longest: the most tokens of an answer.
        unanswerable: whether there may be none.
    """
    found = [_candidates(window, longest) for window in windows]
    spans, index = torch.cat([spans for spans, _ in found]).unique(return_inverse=True)
    scores = torch.full((len(spans),), -torch.inf, dtype=torch.float64)
    scores = scores.scatter_reduce(0, index, torch.cat([each for _, each in found]), "amax")
    nothing = min(float(window.logits[NO_ANSWER].double().sum()) for window in windows)
    may_lack = unanswerable or not len(spans)
    every = torch.cat([scores, torch.tensor([nothing if may_lack else -torch.inf], dtype=torch.float64)])
    shares, best = every.softmax(0), int(every.argmax())
    none = float(shares[-1])
    if best == len(spans):
        return Best(None, nothing, none, none)
    return Best(divmod(int(spans[best]), MANY), float(every[best]), float(shares[best]), none)


def _candidates(window: Window, longest: int) -> tuple[Tensor, Tensor]:
    """All answers that a window shows: their characters, start times `MANY` plus end, and their scores."""
    at = [place for place, token in enumerate(window.tokens) if _may_answer(token)]
    characters = torch.tensor([window.tokens[place].span for place in at], dtype=torch.long).reshape(-1, 2)
    first, further = torch.arange(len(at)).unsqueeze(-1), torch.arange(longest)
    last = first + further
    there = last < len(at)
    first, last = first.expand_as(last)[there], last[there]
    logits = window.logits.cpu().double()[at]
    return MANY * characters[first, 0] + characters[last, 1], logits[first, 0] + logits[last, 1]


def _may_answer(token: Token) -> bool:
    return token.sequence == CONTEXT and token.span[0] < token.span[1]
