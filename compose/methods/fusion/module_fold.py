"""Products of frozen weights, kept until one of the weights changes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn

from compose.methods.watched import Watched

KEPT = 4
"""How many sets of candidates a fusion keeps products for."""


Products = tuple[Tensor | None, ...]
"""Products of frozen weights: a named tuple of a kind of fusion's own."""
Made = TypeVar("Made", bound=Products)


class Folded(NamedTuple):
    """A fusion's matrices multiplied into those of its candidates.

    Args:
        scores: [columns, width] if all candidates are low-rank, else the map from the query to
            what increments are compared with, [width, width].
        score_bias: [columns] or [width]; None where there is no query bias.
        values: value matrix times the candidates' up-projections, [width, columns]; None with
            dense candidates.
    """

    scores: Tensor | None
    score_bias: Tensor | None
    values: Tensor | None


def multiplied(
    query: nn.Linear | None, key: nn.Linear | None, value: nn.Linear | None, columns: Tensor | None
) -> Folded:
    """All products of a fusion's matrices (None: the identity) with its candidates' columns.

    Args:
        query, key, value: the three maps.
        columns: [width, columns]: up-projections and biases; None with dense candidates.
    """
    # the scores of increments U z are (U^T Wk^T q).z, and q is Wq h + bq
    rows: Tensor | None = None if key is None else key.weight
    if columns is not None:
        rows = columns if rows is None else rows @ columns
    scores: Tensor | None = None if query is None else query.weight
    bias: Tensor | None = None if query is None else query.bias
    if rows is not None:
        scores = rows.T if scores is None else rows.T @ scores
        bias = None if bias is None else bias @ rows
    if columns is None:
        return Folded(scores, bias, None)
    return Folded(scores, bias, columns if value is None else value.weight @ columns)


class Kept(NamedTuple):
    """Products, and what they were made from."""

    shape: Hashable
    watched: tuple[Watched, ...]
    products: Products

    def fits(self, shape: Hashable, sources: Sequence[Tensor]) -> bool:
        """Whether these products are those of `sources` as these are now."""
        return (
            self.shape == shape
            and len(self.watched) == len(sources)
            and all(seen.owner() is source for seen, source in zip(self.watched, sources, strict=True))
            and all(seen.unchanged() for seen in self.watched)
        )


class Folds:
    """A small cache of products; copies of it, and its pickles, are empty.

    Threads may share it: it is replaced as a whole, never changed.

    Args:
        size: how many products it keeps.
    """

    def __init__(self, size: int = KEPT) -> None:
        self.size = size
        self._kept: tuple[Kept, ...] = ()

    def __deepcopy__(self, memo: dict[int, object]) -> Folds:
        return Folds(self.size)

    def __reduce__(self) -> tuple[type[Folds], tuple[int]]:
        return (Folds, (self.size,))

    def get(self, shape: Hashable, sources: Sequence[Tensor], build: Callable[[], Made]) -> Made:
        """The products of some weights, built anew if a weight has changed.

        Args:
            shape: what else tells one set of products from another.
            sources: the weights.
            build: multiplies them.
        """
        for kept in self._kept:
            if kept.fits(shape, sources):
                return cast(Made, kept.products)  # a cache has one owner, and so one kind of products
        tracked = not any(source.is_inference() for source in sources)  # these count no versions
        watched = tuple(Watched.of(source) for source in sources) if tracked else ()
        # leaving inference mode: products made there could not take part in a backward pass
        with torch.inference_mode(False), torch.no_grad():
            built = build()
            made = type(built)(*(None if one is None else one.detach() for one in built))  # type: ignore[arg-type]
        if tracked:
            new = Kept(shape, watched, made)
            alive = [kept for kept in self._kept if all(seen.unchanged() for seen in kept.watched)]
            self._kept = (new, *alive[: self.size - 1])
        return made

    def __len__(self) -> int:
        return len(self._kept)
