"""The modules of each method."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from compose.methods.aggregation.module import AggregationPart
from compose.methods.bitfit.module import BitFitPart
from compose.methods.bottleneck.module import BottleneckPart
from compose.methods.compacter.module import CompacterPart, CompacterShared
from compose.methods.lora.module import LoraPart
from compose.methods.part import Part

PARTS: Mapping[str, type[Part]] = {
    "bottleneck": BottleneckPart,
    "compacter": CompacterPart,
    "lora": LoraPart,
    "bitfit": BitFitPart,
    "layer_aggregation": AggregationPart,
}
"""By method; each is built from (config, its ActingSpec, the SiteSpec), and what its adapter's parts share, if any."""

SHARED: Mapping[str, type[nn.Module]] = {"compacter": CompacterShared}
"""What all parts of one adapter share, by method; built from (config, the AdapterSpec, the BackboneSpec)."""
