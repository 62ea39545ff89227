"""A call's embeddings and the positions of its tokens, for adapters that move these."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from compose.methods.embedding import Embedding

POSITIONS = "position_ids"
_READ = ("input_ids", "inputs_embeds", "token_type_ids")
"""The inputs that embeddings read, besides positions."""


def embedding_of(
    run: Callable[[Mapping[str, Any]], Tensor],
    given: Mapping[str, Any],
    start: Tensor,
    first: int = 0,
    limit: int | None = None,
) -> Embedding:
    """The embeddings of a call.

    Args:
        run: gives what the first layer would be given, for inputs by name.
        given: the call's inputs.
        start: what that is, [rows, tokens, width].
        first: the first position that there is.
        limit: how many positions there are.
    """
    rows, tokens = start.shape[:2]
    own = {name: given[name] for name in _READ if given.get(name) is not None}
    positions = _positions(given, tokens, first, start.device).expand(rows, -1)
    moved = torch.zeros_like(positions)

    def at(inputs: Mapping[str, Tensor], places: Tensor) -> Tensor:
        return run({**inputs, POSITIONS: places})

    return Embedding(at, own, positions, moved, start, first=first, limit=limit)


def _positions(given: Mapping[str, Any], tokens: int, first: int, device: torch.device) -> Tensor:
    """The positions that the backbone gives its tokens, [rows or 1, tokens]."""
    found: Tensor | None = given.get(POSITIONS)
    if found is not None:
        return found
    ids: Tensor | None = given.get("input_ids")
    if not first or ids is None:
        return first + torch.arange(tokens, device=device).unsqueeze(0)
    there = (ids != first - 1).long()  # RoBERTa keeps the position before the first one for padding
    return there.cumsum(1) * there + first - 1
