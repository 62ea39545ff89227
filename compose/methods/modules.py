"""The module of each method."""

from __future__ import annotations

from collections.abc import Mapping

from compose.methods.aggregation.module import AggregationPart
from compose.methods.bottleneck.module import BottleneckPart
from compose.methods.invertible.module import InvertiblePart
from compose.methods.lora.module import LoraPart
from compose.methods.part import Part
from compose.methods.prompt_tuning.module import PromptPart
from compose.specs import EMBED

PARTS: Mapping[str, type[Part]] = {
    "bottleneck": BottleneckPart,
    "lora": LoraPart,
    "layer_aggregation": AggregationPart,
    "prompt_tuning": PromptPart,
}
"""By method; each is built from (config, its ActingSpec, the SiteSpec)."""

OTHERS: Mapping[tuple[str, str], type[Part]] = {
    ("bottleneck", EMBED): InvertiblePart,
}
"""By method and site, where a method has another module at a site."""


def part_of(method: str, site: str) -> type[Part]:
    """The module of a method at a site."""
    return OTHERS.get((method, site)) or PARTS[method]
