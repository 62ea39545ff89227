"""Factors that several adapters have in common: one tensor, trained by all of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from compose.errors import ConfigError, Problem
from compose.methods.linear.module import LinearPart

if TYPE_CHECKING:
    from compose.methods.adapter import Adapter
    from compose.runtime.model import Model


Key = tuple[int, str, str]
"""A factor by layer, site and name."""


class Place(NamedTuple):
    """Where a factor is kept: the module, and its name there."""

    module: nn.Module
    name: str

    @property
    def factor(self) -> Tensor:
        """The factor."""
        return self.module.get_parameter(self.name)


def share_factors(model: Model, *names: str) -> None:
    """Makes adapters have their low-rank factors in common: those of the first one.

    What is the task's own stays so: the matrix and the weights of MTL-LoRA, the magnitudes of DoRA. Training any of
    them trains the factors. Every adapter's file holds them: adapters that were loaded are shared anew.

    Args:
        model: the model.
        names: adapters of LoRA, DoRA or MTL-LoRA whose factors have the same places and shapes.

    Raises:
        RegistryError: an adapter is unknown.
        ConfigError: there are fewer than two, one is sparse, or their factors differ in places or shapes.
    """
    model.adapters.require(*names)
    adapters = [model.adapters[name] for name in dict.fromkeys(names)]
    if len(adapters) < 2:
        raise ConfigError("one adapter has nobody to share with", hint="share_factors(model, 'a', 'b')")
    _check_dense(adapters)
    first, *others = [dict(_places(adapter)) for adapter in adapters]
    shapes = [{key: place.factor.shape for key, place in found.items()} for found in (first, *others)]
    problems = [
        Problem(f"the adapters '{adapters[0].name}' and '{adapter.name}' cannot share factors", why=why)
        for adapter, found in zip(adapters[1:], shapes[1:], strict=True)
        if (why := _difference(shapes[0], found))
    ]
    if problems:
        raise ConfigError(problems)
    for found in others:
        for key, place in found.items():
            setattr(place.module, place.name, first[key].factor)
    model.version += 1


def unshare_factors(model: Model, name: str) -> None:
    """Gives an adapter copies of the factors that it shares, so that it is trained alone.

    Raises:
        RegistryError: the adapter is unknown.
        ConfigError: it is sparse, and so shares nothing.
    """
    _check_dense([model.adapters[name]])
    for _, place in _places(model.adapters[name]):
        factor = place.factor
        setattr(place.module, place.name, nn.Parameter(factor.detach().clone(), factor.requires_grad))
    model.version += 1


def _check_dense(adapters: Sequence[Adapter]) -> None:
    """Refuse sparse adapters: which weights are kept is said of the adapter's own."""
    problems = [
        Problem(f"the adapter '{adapter.name}' is sparse, and cannot share its factors")
        for adapter in adapters
        if adapter.masks
    ]
    if problems:
        raise ConfigError(problems)


def _places(adapter: Adapter) -> Iterator[tuple[Key, Place]]:
    for acting in adapter.spec.parts:
        part = adapter.part(acting.layer, acting.site)
        for path in part.shareable if isinstance(part, LinearPart) else ():
            parent, _, name = path.rpartition(".")
            yield (acting.layer, acting.site, name), Place(part.get_submodule(parent), name)


def _difference(one: Mapping[Key, torch.Size], other: Mapping[Key, torch.Size]) -> str:
    if not one or not other:
        return "it has no factors that are trained: LoRA, DoRA and MTL-LoRA have"
    for key in sorted({*one, *other}):
        layer, site, name = key
        if key not in one or key not in other:
            return f"only one of them acts on layer {layer}, {site}"
        if one[key] != other[key]:
            sizes = f"{tuple(one[key])} in one, {tuple(other[key])} in the other"
            return f"layer {layer}, {site}: the factor {name} is {sizes}"
    return ""
