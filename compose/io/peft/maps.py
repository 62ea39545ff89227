"""The linear maps that an adapter acts on: by the options of ours, and by the modules that PEFT adapts."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

from compose.errors import Problem
from compose.io.modules import BackboneModules
from compose.io.records import AdapterRecord
from compose.methods.linear.spec import LinearConfig
from compose.specs import BackboneSpec


class AdaptedMap(NamedTuple):
    """A module that an adapter acts on.

    Args:
        path: its path in the backbone.
        layer: index of its layer.
        sites: its site; of a fused map, which is one module to PEFT, those of its parts in order.
        adapted: those of them at which the adapter acts.
    """

    path: str
    layer: int
    sites: tuple[str, ...]
    adapted: tuple[str, ...]


def adapted_maps(record: AdapterRecord, modules: BackboneModules) -> Iterator[AdaptedMap]:
    """The modules that an adapter of ours acts on, in the order of the backbone."""
    acting = {(part.layer, part.site) for part in record.config.describe(record.name, modules.spec).parts}
    for path, (layer, sites) in modules.linears.items():
        adapted = tuple(site for site in sites if (layer, site) in acting)
        if adapted:
            yield AdaptedMap(path, layer, sites, adapted)


def gate_problems(config: LinearConfig, method: str, what: str) -> list[Problem]:
    """A gate, which PEFT's methods do not have.

    Args:
        config: the adapter's.
        method: PEFT's name of it.
        what: how errors call the adapter.
    """
    if not config.use_gating:
        return []
    return [Problem(f"{what}: PEFT's {method} has no gate", where="use_gating", hint="format='adapterhub'")]


def acting_options(places: Collection[tuple[int, str]], spec: BackboneSpec) -> dict[str, Any]:
    """The options under which an adapter of linear maps acts at some (layer, site) pairs, and at as few others as can
    be: a map is then adapted in all layers in which any is."""
    sites = {site for _, site in places}
    attention = {site.rpartition(".")[2] for site in sites if not site.startswith("ffn.")}
    layers = {layer for layer, _ in places}
    crossing = any(site.startswith("cross.") for site in sites)
    return {
        "selfattn_lora": any(site.startswith("attn.") for site in sites),
        "crossattn_lora": crossing if any("cross.attn" in layer.sites for layer in spec.layers) else None,
        "intermediate_lora": "ffn.in" in sites,
        "output_lora": "ffn.out" in sites,
        "attn_matrices": sorted(attention),
        "leave_out": [layer.index for layer in spec.layers if layer.index not in layers],
    }
