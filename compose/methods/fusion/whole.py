"""A fusion over all its sites."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from compose.methods.fusion.part import FusionPart, FusionPlace
from compose.methods.fusion.spec import FusionOptions
from compose.methods.modules import FUSION_PARTS
from compose.methods.tensors import canonical, key_of, load_strictly


class Fusion(nn.Module):
    """A named fusion: its config, and its parts at all the sites where its children act.

    Args:
        name: its own name.
        config: its options.
        sites: the width of the value at each (layer, site).
        dropout: of the backbone's attention, which is that on the scores where the config names none.
        candidates: the names of the adapters that it was made for, for its file.
        children: how many children the Fuse has that it is made for; as many as there are candidates by default.
    """

    def __init__(
        self,
        name: str,
        config: FusionOptions,
        sites: Mapping[tuple[int, str], int],
        dropout: float = 0.0,
        candidates: Sequence[str] = (),
        children: int | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        self.config = config
        self.candidates = tuple(candidates)
        self.child_count = len(self.candidates) if children is None else children
        self.spec = config.describe(name, sites, self.child_count)
        # Weights that layers share stand at the first layer that has the site.
        self._homes = {key: _home(key, sites) if config.shares_layers else key for key in sorted(sites)}
        served = Counter(self._homes.values())
        build = cast(Callable[..., FusionPart], FUSION_PARTS[config.method])
        self.parts = nn.ModuleDict(
            {
                key_of(*home): build(config, FusionPlace(sites[home], self.child_count, layers, dropout))
                for home, layers in served.items()
            }
        )

    def part(self, layer: int, site: str) -> FusionPart:
        """Its part at a (layer, site) of its spec.

        Raises:
            KeyError: if it has no weights there.
        """
        return cast(FusionPart, self.parts[key_of(*self._homes[layer, site])])

    def tensors(self) -> dict[str, Tensor]:
        """Its weights by canonical name, `3.ffn.query.weight`; `3.ffn.temperature` if it has one."""
        return canonical(self.parts)

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take weights by canonical name: all of them, or none.

        Raises:
            FileError: naming all that is missing, unexpected, misshapen or not finite.
        """
        load_strictly(self.tensors(), tensors, f"fusion {self.name!r}")

    def advance(self) -> None:
        """One training step: the temperature falls, where there is one."""
        for part in self._each():
            part.advance()

    def regularization_loss(self) -> Tensor:
        """What its parts add to the loss: distances from the identity. A scalar."""
        losses = [part.regularization_loss() for part in self._each()]
        return torch.stack(losses).sum() if losses else torch.zeros(())

    def undecayed(self) -> Iterator[nn.Parameter]:
        """The weights that weight decay must leave alone."""
        for part in self._each():
            yield from part.undecayed()

    def _each(self) -> Iterator[FusionPart]:
        return (cast(FusionPart, part) for part in self.parts.values())


def _home(key: tuple[int, str], sites: Mapping[tuple[int, str], Any]) -> tuple[int, str]:
    """The first of some (layer, site) pairs with the site of another."""
    return min(other for other in sites if other[1] == key[1])
