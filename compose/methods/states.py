"""The states of all layers: what is read at the site `states`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Means = tuple[Tensor, Tensor]


class LayerStates:
    """The states of all layers for the same rows.

    Args:
        layers: one [rows, tokens, width] for the output of the embeddings, then one for each layer. Where they
            lie one after the other in memory, as the parts of one tensor do, they are not copied.
        mask: [rows, tokens], 0 where a token is padding; None: none is.
        dtype: the type to compute in; by default that of the states.
    """

    def __init__(self, layers: Sequence[Tensor], mask: Tensor | None = None, dtype: torch.dtype | None = None) -> None:
        self.layers = tuple(layers)
        self.mask = mask
        self.dtype = dtype or self.layers[0].dtype
        self._chosen: dict[tuple[int, ...], Tensor] = {}
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
            states = self._stacked(chosen)
            of_layers = torch.matmul(self._shares(states).unsqueeze(1), states).squeeze(2).transpose(0, 1)
            self._means[chosen] = states.mean(0), of_layers
        return self._means[chosen]

    def mixed(self, chosen: tuple[int, ...], weights: Tensor) -> Tensor:
        """Some states, weighed and added up, [rows, tokens, width].

        Args:
            chosen: numbers of states.
            weights: [rows, tokens, states].
        """
        by_token = self._stacked(chosen).flatten(1, 2).transpose(0, 1)
        return torch.bmm(weights.flatten(0, 1).unsqueeze(1), by_token).reshape(*weights.shape[:2], by_token.shape[-1])

    def each(self, change: Callable[[Tensor], Tensor]) -> LayerStates:
        """The same of other rows or tokens: all tensors changed."""
        mask = None if self.mask is None else change(self.mask)
        return LayerStates([change(states) for states in self.layers], mask, self.dtype)

    def _stacked(self, chosen: tuple[int, ...]) -> Tensor:
        """Some states in one tensor, [states, rows, tokens, width]: one large product takes less than many small."""
        if chosen not in self._chosen:
            self._chosen[chosen] = _stack([self.layers[number] for number in chosen]).to(self.dtype)
        return self._chosen[chosen]

    def _shares(self, states: Tensor) -> Tensor:
        """What each token counts in the mean over its row's tokens, [rows, tokens]."""
        if self.mask is None:
            return states.new_full(states.shape[1:3], 1 / max(states.shape[2], 1))  # a Split may leave a span empty
        present = (self.mask != 0).to(states.dtype)
        return present / present.sum(1, keepdim=True).clamp(min=1)


def _stack(tensors: Sequence[Tensor]) -> Tensor:
    """`torch.stack`, without a copy where the tensors are consecutive parts of one."""
    first = tensors[0]
    if torch.compiler.is_compiling() or any(each.requires_grad or not each.is_contiguous() for each in tensors):
        return torch.stack(list(tensors))
    place, size = first.data_ptr(), first.numel() * first.element_size()
    storage = first.untyped_storage().data_ptr()
    for index, each in enumerate(tensors):
        same = each.dtype == first.dtype and each.untyped_storage().data_ptr() == storage
        if not same or each.shape != first.shape or each.data_ptr() != place + index * size:
            return torch.stack(list(tensors))
    return first.as_strided((len(tensors), *first.shape), (first.numel(), *first.stride()))
