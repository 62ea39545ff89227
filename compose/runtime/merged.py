"""What is merged into a backbone, and its weights as they were before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from compose.errors import BackboneError
from compose.methods.linear.module import Weights
from compose.methods.linear_map import LinearMap
from compose.specs import AdapterSpec

if TYPE_CHECKING:
    from compose.runtime.hooks import Hooks

UNMERGE = "model.unmerge() brings the backbone's own weights back"


@dataclass
class Merged:
    """What is merged into a backbone.

    Args:
        specs: the adapters, in the order in which they were merged.
        dropout: those of them that have dropout, which a weight cannot have.
        originals: for each module that was written to, the name of a weight and its values before.
    """

    specs: dict[str, AdapterSpec] = field(default_factory=dict)
    dropout: tuple[str, ...] = ()
    originals: list[tuple[nn.Module, str, Tensor]] = field(default_factory=list)

    @property
    def names(self) -> tuple[str, ...]:
        """The adapters' names."""
        return tuple(self.specs)

    @torch.no_grad()
    def restore(self) -> None:
        """Writes back what was there before."""
        for module, name, values in self.originals:
            getattr(module, name).copy_(values)
        self.specs, self.dropout, self.originals = {}, (), []

    def keep(self, module: nn.Module) -> None:
        """Keeps a module's weights as they are, unless they are kept already."""
        if not any(kept is module for kept, _, _ in self.originals):
            for name, parameter in module.named_parameters(recurse=False):
                self.originals.append((module, name, parameter.detach().clone()))

    def before(self, map: LinearMap) -> Weights:
        """A map's weights as they were before anything was merged."""
        values = {name: kept for module, name, kept in self.originals if module is map.module}
        if not values:
            return Weights(map.weight, map.bias)
        return Weights(map.part(map.matrix(values["weight"])), map.part(values["bias"]) if "bias" in values else None)


def require_unmerged(hooks: Sequence[Hooks], what: str) -> None:
    """Raises a `BackboneError` if one of some models has merged adapters into its backbone.

    Args:
        hooks: the models' hooks.
        what: what would take the merged weights for the backbone's own.
    """
    names = [name for one in hooks for name in one.merged.names]
    if names:
        raise BackboneError(f"the adapter '{names[0]}' is merged into the backbone: {what}", hint=UNMERGE)
