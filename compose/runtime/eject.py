"""Turns a reparametrised prefix into a flat one, which computes the same without the MLP."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from compose.errors import ConfigError
from compose.methods.adapter import Adapter
from compose.methods.config import Config
from compose.methods.prefix.flat import flat_tensors
from compose.methods.prefix.spec import PrefixConfig
from compose.methods.union.spec import UnionConfig

if TYPE_CHECKING:
    from compose.runtime.model import Model


def eject_prefix_tuning(model: Model, name: str) -> Adapter:
    """Puts the keys and values that a prefix's MLP makes in its place; outputs stay as they are.

    Of a union it is the prefix among its members that becomes flat.

    Raises:
        RegistryError: if there is no such adapter.
        ConfigError: if it is no prefix, and none is among its members.
    """
    model.adapters.require(name)
    adapter: Adapter = model.adapters[name]
    config = adapter.config
    prefixes = [member for member in config.members if isinstance(member, PrefixConfig)]
    if not prefixes:
        raise ConfigError(
            f"adapter {name!r} has no prefix to eject",
            where=config.method,
            why="only what prefix_tuning makes with an MLP can be made once and for all",
        )
    if all(member.flat for member in prefixes):
        return adapter
    flat = Adapter(name, _flat_config(config), model.spec)
    flat.to(model.adapter_dtype)
    adapter.masks.enforce()
    made = flat_tensors(adapter)
    kept = {key: tensor for key, tensor in adapter.tensors().items() if key in flat.tensors()}
    flat.load_tensors({**kept, **made})
    flat.mask({key: mask for key, mask in adapter.masks.by_name().items() if key in kept})
    flat.requires_grad_(any(parameter.requires_grad for parameter in adapter.parameters()))
    model.delete_adapter(name)
    model.register(model.adapters, name, flat)
    return flat


def _flat_config(config: Config) -> Config:
    """The same options but for prefixes, which are flat."""
    if isinstance(config, UnionConfig):
        return UnionConfig(tuple(_flat_config(member) for member in config.members))
    return replace(config, flat=True) if isinstance(config, PrefixConfig) else config
