"""The states of all layers: what is read at the site `states`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Means = tuple[Tensor, Tensor]


class LayerStates:
    """The states of all layers for the same rows.

    Args:
        layers: one [rows, tokens, width] for the output of the embeddings, then one for each layer.
        mask: [rows, tokens], 0 where a token is padding; None: none is.
    """

    def __init__(self, layers: Sequence[Tensor], mask: Tensor | None = None) -> None:
        self.layers = tuple(layers)
        self.mask = mask
        self._means: dict[tuple[int, ...], Means] = {}

    def means(self, chosen: tuple[int, ...]) -> Means:
        """Means of some states; computed once for all that ask for the same ones.

        Args:
            chosen: numbers of states, 0 for that of the embeddings.

        Returns:
            The mean over those states, [rows, tokens, width], and of each of them the mean over its tokens
            without padding, [rows, states, width].
        """
        if chosen not in self._means:
            self._means[chosen] = self._new_means(chosen)
        return self._means[chosen]

    def mixed(self, chosen: tuple[int, ...], weights: Tensor) -> Tensor:
        """Some states, weighed and added up, [rows, tokens, width].

        Args:
            chosen: numbers of states.
            weights: [rows, tokens, states].
        """
        first, *others = [self.layers[number] for number in chosen]
        mixture = first * weights[..., :1]
        for index, states in enumerate(others, 1):
            mixture = mixture.addcmul(states, weights[..., index : index + 1])
        return mixture

    def each(self, change: Callable[[Tensor], Tensor]) -> LayerStates:
        """The same of other rows or tokens: all tensors changed."""
        return LayerStates([change(states) for states in self.layers], None if self.mask is None else change(self.mask))

    def to(self, dtype: torch.dtype) -> LayerStates:
        """The states in another type."""
        return LayerStates([states.to(dtype) for states in self.layers], self.mask)

    def _new_means(self, chosen: tuple[int, ...]) -> Means:
        first = self.layers[chosen[0]]
        if self.mask is None:
            share = first.new_full(first.shape[:2], 1 / max(first.shape[1], 1))
        else:
            present = (self.mask != 0).to(first.dtype)
            share = present / present.sum(1, keepdim=True).clamp(min=1)
        share = share.unsqueeze(1)
        total, of_tokens = torch.zeros_like(first), []
        for number in chosen:  # both means of a state at once, while the processor's cache holds it
            of_tokens.append(torch.bmm(share, self.layers[number]))
            total = total.add(self.layers[number], alpha=1 / len(chosen))
        return total, torch.cat(of_tokens, 1)
