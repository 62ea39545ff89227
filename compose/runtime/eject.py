"""Turns a reparametrised prefix into a flat one, which computes the same without the MLP."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from compose.errors import ConfigError
from compose.methods.adapter import Adapter
from compose.methods.prefix.flat import flat_tensors
from compose.methods.prefix.spec import PrefixConfig

if TYPE_CHECKING:
    from compose.runtime.model import Model


def eject_prefix_tuning(model: Model, name: str) -> Adapter:
    """Puts the keys and values that a prefix's MLP makes in its place; outputs stay as they are.

    Raises:
        RegistryError: if there is no such adapter.
        ConfigError: if it is no prefix.
    """
    model.adapters.require(name)
    adapter: Adapter = model.adapters[name]
    config = adapter.config
    if not isinstance(config, PrefixConfig):
        raise ConfigError(
            f"adapter {name!r} has no prefix to eject",
            where=config.method,
            why="only what prefix_tuning makes with an MLP can be made once and for all",
        )
    if config.flat:
        return adapter
    tensors = flat_tensors(adapter)
    flat = Adapter(name, replace(config, flat=True), model.spec)
    flat.to(model.adapter_dtype).load_tensors(tensors)
    flat.requires_grad_(any(parameter.requires_grad for parameter in adapter.parameters()))
    model.delete_adapter(name)
    model.register(model.adapters, name, flat)
    return flat
