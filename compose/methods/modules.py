"""The module of each method, and of each kind of fusion."""

from __future__ import annotations

from collections.abc import Mapping

from compose.methods.aggregation.module import AggregationPart
from compose.methods.bottleneck.module import BottleneckPart
from compose.methods.fusion.module import AttentionPart
from compose.methods.fusion.part import FusionPart
from compose.methods.lora.module import LoraPart
from compose.methods.part import Part
from compose.methods.scalearn.module import ScaLearnPart

PARTS: Mapping[str, type[Part]] = {
    "bottleneck": BottleneckPart,
    "lora": LoraPart,
    "layer_aggregation": AggregationPart,
}
"""By method; each is built from (config, its ActingSpec, the SiteSpec)."""

FUSION_PARTS: Mapping[str, type[FusionPart]] = {
    "adapter_fusion": AttentionPart,
    "scalearn": ScaLearnPart,
}
"""By kind of fusion; each is built from (config, its FusionPlace)."""
