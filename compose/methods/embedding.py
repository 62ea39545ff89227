"""The backbone's embeddings, for adapters that need them again: at other positions, or of vectors in place of words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from compose.errors import InputError


@dataclass(frozen=True)
class Embedding:
    """The embeddings of some rows.

    Args:
        run: gives states [rows, tokens, width] for inputs by name and positions [rows, tokens].
        given: the inputs by name, [rows, tokens, ...].
        positions: of the text's tokens, [rows, tokens].
        moved: how much further each token's position is by now, [rows, tokens].
        most: the most of these.
        first: the first position that there is.
        limit: how many positions there are, None if nothing limits it.
        start: what the embeddings gave for these rows in the call.
    """

    run: Callable[[Mapping[str, Tensor], Tensor], Tensor]
    given: Mapping[str, Tensor]
    positions: Tensor
    moved: Tensor
    start: Tensor
    most: int = 0
    first: int = 0
    limit: int | None = None

    def each(self, change: Callable[[Tensor], Tensor]) -> Embedding:
        """Those of other rows."""
        given = {name: change(tensor) for name, tensor in self.given.items()}
        positions, moved, start = change(self.positions), change(self.moved), change(self.start)
        return replace(self, given=given, positions=positions, moved=moved, start=start)

    def further(self, count: int) -> Embedding:
        """With positions that begin further on."""
        return replace(self, moved=self.moved + count, most=self.most + count)

    def moved_on(self, y: Tensor, count: int, places: Tensor | None = None) -> Tensor:
        """The value of a text whose positions begin further on.

        Args:
            y: its value, [rows, tokens, width]; what acted on it before stays, as a difference.
            count: how much further.
            places: [rows, tokens of the text], where these are in y, if others came among them.

        Raises:
            InputError: if the backbone has no positions there.
        """
        tokens = self.positions.shape[1]
        if self.limit is not None and tokens + self.most + count > self.limit:
            raise InputError(
                f"{tokens} tokens after {self.most + count} virtual ones, but the backbone has positions for "
                f"{self.limit} in all",
                hint="shorter texts",
            )
        later = self._at(count).to(y.dtype)
        if y is self.start:
            return later
        change = later - self._at(0).to(y.dtype)
        if places is None or y.shape == change.shape:
            return y + change
        return y.scatter_add(1, places.unsqueeze(-1).expand_as(change), change)

    def words(self, vectors: Tensor) -> Tensor:
        """What the embeddings make of vectors in the place of words, at the positions that come next.

        Args:
            vectors: [count, width].

        Returns:
            [rows, count, width].
        """
        places = self.first + torch.arange(len(vectors), device=vectors.device)
        moved = self.moved[:, :1]
        return self.run({"inputs_embeds": vectors.expand(len(moved), -1, -1)}, moved + places)

    def _at(self, count: int) -> Tensor:
        return self.run(self.given, self.positions + self.moved + count)
