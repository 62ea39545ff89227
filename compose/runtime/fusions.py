"""Fresh fusions, and those that files hold, over a model's backbone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from compose.dsl import Fuse, as_expression, leaves, own_name
from compose.errors import ExpressionError
from compose.graph.check import check_fusible, fusion_sites
from compose.io.records import FusionRecord
from compose.io.records import fusion_sites as sites_of_tensors
from compose.methods.fusion.spec import FusionOptions
from compose.methods.fusion.whole import Fusion
from compose.methods.fusions import make_fusion_config
from compose.runtime.host import attention_dropout

if TYPE_CHECKING:
    from compose.runtime.model import Model


def new_fusion(model: Model, fuse: Fuse | str, config: str | FusionOptions, options: Mapping[str, Any]) -> Fusion:
    """Fresh weights for a Fuse; see `Model.add_fusion`."""
    block = as_expression(fuse)
    name = own_name(block) if isinstance(block, Fuse) else None
    if not isinstance(block, Fuse) or name is None:
        raise ExpressionError(
            f"{fuse!r} is no Fuse with a name",
            hint="model.add_fusion(Fuse('a', 'b')), or Fuse(..., name='...')",
        )
    model.adapters.require(*leaves(block))
    check_fusible(block, model.vocabulary)
    model.fusions.require_free(name)
    made = make_fusion_config(config, **options)
    sites = _widths(model, made, fusion_sites(block, model.vocabulary))
    return Fusion(name, made, sites, attention_dropout(model.config), leaves(block), len(block.children))


def fusion_from(model: Model, record: FusionRecord) -> Fusion:
    """The fusion of a record."""
    sites: Iterable[tuple[int, str]] = sites_of_tensors(record.tensors)
    if not record.tensors:  # without matrices it can act anywhere
        sites = [(layer.index, site) for layer in model.spec.layers for site in layer.sites]
    # A child may be of several adapters, or of none: where each has scales, these tell how many there are.
    scales = (tensor for name, tensor in record.tensors.items() if name.endswith(".scales") and tensor.dim())
    children = next((len(tensor) for tensor in scales), len(record.children))
    widths = _widths(model, record.config, sites)
    fusion = Fusion(record.name, record.config, widths, attention_dropout(model.config), record.children, children)
    fusion.to(model.adapter_dtype).load_tensors(record.tensors)
    return fusion


def _widths(model: Model, config: FusionOptions, sites: Iterable[tuple[int, str]]) -> dict[tuple[int, str], int]:
    """The widths of the values where a fusion's weights serve, at the sites that the backbone has."""
    layers = model.spec.layers
    return {
        (layer, site): layers[layer].sites[site].width_out
        for layer, site in sorted(config.reach(sites, model.spec))
        if layer < len(layers) and site in layers[layer].sites
    }
