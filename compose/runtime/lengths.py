"""Rows of several lengths, where prompts make them longer: joined, averaged, padded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from compose.methods.part import Context
from compose.methods.tokens import Tokens, padded
from compose.runtime.rows import places


class Value(NamedTuple):
    """What flows at a site: y and its fixed context, with the same rows and tokens."""

    y: Tensor
    context: Context


class Longer(NamedTuple):
    """What the first layer begins with where prompts act.

    Args:
        states: [classes x rows, tokens, width]; rows of shorter prompts end in padding.
        tokens: which of these are tokens, and where the text's own are.
    """

    states: Tensor
    tokens: Tokens

    def own(self, states: Tensor, start: int, rows: int) -> Tensor:
        """The states of the text's own tokens.

        Args:
            states: [rows, tokens, width], of one branch.
            start: the class with which the branch began.
            rows: of the batch.
        """
        places = self.tokens.places.narrow(0, start * rows, rows)
        return states.gather(1, places.unsqueeze(-1).expand(-1, -1, states.shape[-1]))


def longer_average(results: Sequence[Value], weights: Sequence[float]) -> Value:
    """The weighted sum of rows with equally long prompts, whose weights add up to 1."""
    y = weights[0] * results[0].y
    for result, weight in zip(results[1:], weights[1:], strict=True):
        y = y + weight * result.y
    return Value(y, results[0].context)


def longer_join(value: Value, pieces: Sequence[Value], indices: Sequence[slice | Tensor]) -> Value:
    """Rows put back into a value, all of them padded to the longest."""
    tokens, embedding = value.context.tokens, value.context.embedding
    assert tokens is not None
    longest = max(each.y.shape[1] for each in (value, *pieces))
    y, tokens = padded(value.y, longest), tokens.padded(longest)
    for piece, index in zip(pieces, indices, strict=True):
        own, later = piece.context.tokens, piece.context.embedding
        assert own is not None
        y, tokens = _with_rows(y, padded(piece.y, longest), index), _tokens(tokens, own.padded(longest), index)
        if embedding is not None and later is not None:
            moved = _with_rows(embedding.moved, later.moved, index)
            embedding = replace(embedding, moved=moved, most=max(embedding.most, later.most))
    return Value(y, value.context._replace(tokens=tokens, embedding=embedding))


def differ(value: Value, pieces: Sequence[Value]) -> bool:
    """Whether rows of a value became longer, or have other positions, in some of its pieces."""
    if value.context.tokens is None:
        return False
    return any(piece.y.shape[1] != value.y.shape[1] or _most(piece) != _most(value) for piece in pieces)


def averaged_context(value: Value, results: Sequence[Value]) -> Context:
    """The context of an average: its children's, where one of them has moved its text."""
    found = value
    for result in results:  # Dynamo knows no max with a key
        found = result if _most(result) > _most(found) else found
    return found.context


def _most(value: Value) -> int:
    return 0 if value.context.embedding is None else value.context.embedding.most


def joined(values: Sequence[Value]) -> Longer:
    """The values of all classes, one after the other, padded to the longest."""
    longest = max(value.y.shape[1] for value in values)
    every = [value.context.tokens.padded(longest) for value in values if value.context.tokens is not None]
    states = torch.cat([padded(value.y, longest) for value in values])
    return Longer(states, Tokens.made_of(lambda tensors: torch.cat(list(tensors)), *every))


def _tokens(into: Tokens, own: Tokens, index: slice | Tensor) -> Tokens:
    return Tokens.made_of(lambda pair: _with_rows(pair[0], pair[1], index), into, own)


def _with_rows(into: Tensor, piece: Tensor, index: slice | Tensor) -> Tensor:
    return into.index_copy(0, places(index, into.device), piece.to(into.dtype))
