"""Fresh adapters: some of their weights start from those of the backbone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compose.errors import ConfigError, Problem
from compose.methods.adapter import Adapter
from compose.methods.config import Config
from compose.methods.linear_map import LinearMap
from compose.runtime.prompts import start_from_text

if TYPE_CHECKING:
    from compose.runtime.model import Model


def linear_maps(model: Model) -> dict[tuple[int, str], LinearMap]:
    """The map of every linear site of a backbone."""
    return {
        (layer.index, linear.site): LinearMap(linear)
        for layer in model.hooks.anatomy.layers
        for sublayer in layer.sublayers
        for linear in sublayer.linears
    }


def add_adapter(model: Model, name: str, config: Config) -> Adapter:
    """Adds an adapter that begins as its method says.

    Raises:
        RegistryError: if the name is taken or not legal.
        ConfigError: if the options do not fit the backbone, or the method reads weights that are packed.
    """
    model.adapters.require_free(name)
    adapter = start_from_text(model, Adapter(name, config, model.spec))
    adapter.to(device=model.device, dtype=model.adapter_dtype)
    maps = linear_maps(model)
    reads = {(part.layer, part.site): maps[part.layer, part.site] for part in adapter.spec.parts if part.reads_weights}
    packed = [f"layer {layer}, {site}" for (layer, site), found in reads.items() if not found.is_plain]
    if packed:
        what = f"{config.method} needs the weights of {packed[0]}, which are stored in fewer bits than a number has"
        raise ConfigError(Problem(what, where=config.method, hint="lora, which needs no weights of the backbone"))
    for (layer, site), found in reads.items():
        adapter.part(layer, site).start(model.hooks.merged.before(found).weight)
    model.register(model.adapters, name, adapter)
    return adapter
