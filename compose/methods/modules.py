"""The modules of each method, and of each kind of fusion."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from compose.methods.aggregation.module import AggregationPart
from compose.methods.bitfit.module import BitFitPart
from compose.methods.bottleneck.module import BottleneckPart
from compose.methods.compacter.module import CompacterPart, CompacterShared
from compose.methods.dora.module import DoraPart, DvoraPart
from compose.methods.fusion.module import AttentionPart
from compose.methods.fusion.part import FusionPart
from compose.methods.ia3.module import Ia3Part
from compose.methods.invertible.module import InvertiblePart
from compose.methods.lora.module import LoraPart
from compose.methods.mtl_lora.module import MtlLoraPart
from compose.methods.part import Part
from compose.methods.prefix.module import MovedTextPart, PrefixPart, PrefixSources
from compose.methods.prompt_tuning.module import PromptPart
from compose.methods.reft.module import ReftPart
from compose.methods.scalearn.module import ScaLearnPart
from compose.methods.vera.module import VeraFactors, VeraPart
from compose.specs import EMBED

PARTS: Mapping[str, type[Part]] = {
    "bottleneck": BottleneckPart,
    "compacter": CompacterPart,
    "lora": LoraPart,
    "ia3": Ia3Part,
    "dora": DoraPart,
    "vera": VeraPart,
    "dvora": DvoraPart,
    "mtl_lora": MtlLoraPart,
    "reft": ReftPart,
    "bitfit": BitFitPart,
    "layer_aggregation": AggregationPart,
    "prompt_tuning": PromptPart,
    "prefix_tuning": PrefixPart,
}
"""By method; each is built from (config, its ActingSpec, the SiteSpec), and what its adapter's parts share, if any."""

SHARED: Mapping[str, type[nn.Module]] = {
    "vera": VeraFactors,
    "dvora": VeraFactors,
    "prefix_tuning": PrefixSources,
    "compacter": CompacterShared,
}
"""What all parts of one adapter share, by method; built from (config, the AdapterSpec, the BackboneSpec)."""

OTHERS: Mapping[tuple[str, str], type[Part]] = {
    ("bottleneck", EMBED): InvertiblePart,
    ("compacter", EMBED): InvertiblePart,
    ("prefix_tuning", EMBED): MovedTextPart,
}
"""By method and site, where a method has another module at a site."""


def part_of(method: str, site: str) -> type[Part]:
    """The module of a method at a site."""
    return OTHERS.get((method, site)) or PARTS[method]


FUSION_PARTS: Mapping[str, type[FusionPart]] = {
    "adapter_fusion": AttentionPart,
    "scalearn": ScaLearnPart,
}
"""By kind of fusion; each is built from (config, its FusionPlace)."""
