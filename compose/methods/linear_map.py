"""The frozen linear map of a site: its weight as a matrix, whatever module holds it."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor


class MapModule(Protocol):
    """What is needed of a linear site's module: see `backbones.resolve.LinearModule`."""

    @property
    def site(self) -> str: ...

    @property
    def module(self) -> Any: ...

    @property
    def fused(self) -> tuple[int, int] | None: ...


class LinearMap:
    """The map of one linear site.

    Args:
        linear: the module, and for a fused map the part of its output that belongs to the site.
    """

    def __init__(self, linear: MapModule) -> None:
        self.site = linear.site
        self.module = linear.module
        self.fused = linear.fused
        # transformers' Conv1D (GPT-2) keeps its weight transposed
        self.transposed = type(linear.module).__name__ == "Conv1D"

    @property
    def weight(self) -> Tensor:
        """[width_out, width_in]; a view, so that writing to it writes to the module."""
        return self.part(self.matrix(self.module.weight))

    @property
    def bias(self) -> Tensor | None:
        """[width_out], likewise; None without one."""
        bias: Tensor | None = self.module.bias
        return None if bias is None else self.part(bias)

    @property
    def is_plain(self) -> bool:
        """Whether its weight is a matrix of floating numbers, and not packed into fewer bits."""
        weight = self.module.weight
        return bool(weight.is_floating_point()) and weight.dim() == 2

    def matrix(self, weight: Tensor) -> Tensor:
        """A weight as the module keeps it, as [width_out, width_in] of the whole module."""
        return weight.T if self.transposed else weight

    def part(self, tensor: Tensor) -> Tensor:
        """Of the whole module's rows those that belong to the site."""
        if self.fused is None:
            return tensor
        index, parts = self.fused
        return tensor.chunk(parts)[index]
