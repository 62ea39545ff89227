"""The options of ScaLearn."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from compose.methods.config import FLAG, NUMBER, PROBABILITY, option
from compose.methods.fusion.spec import FusionOptions
from compose.specs import BackboneSpec, FusionKind, FusionSpec


@dataclass(frozen=True)
class ScaLearnConfig(FusionOptions):
    """Options of ScaLearn: each child's increment is scaled, by learned weights that nothing constrains.

    After Frohmann et al., "ScaLearn: Simple and Highly Parameter-Efficient Task Transfer by Learning to Scale",
    2024, arXiv:2310.01217; the defaults are those of the authors' implementation.

    Args:
        uniform: one scale for each child, rather than one for each of its increment's elements.
        shared: the same scales in all layers (the paper's ++): one set for each site of a layer.
        dropout: on the scales.
        init_scale: scales start around `init_scale` / children, with a standard deviation of 0.001.

    Raises:
        ConfigError: with a problem for every option that is out of range.
    """

    method: ClassVar[str] = "scalearn"

    uniform: bool = option(False, FLAG)
    shared: bool = option(False, FLAG)
    dropout: float = option(0.3, PROBABILITY)
    init_scale: float = option(2.0, NUMBER)

    def describe(self, name: str, sites: Iterable[tuple[int, str]], children: int = 0) -> FusionSpec:
        """One scale, or one vector of them, for each child; see `FusionOptions.describe`."""
        kind: FusionKind = "scale" if self.uniform else "scales"
        return FusionSpec(name, frozenset(sites), query=False, key=False, value=False, kind=kind, children=children)

    def about(self) -> str:
        """One scale or many, and whether layers share them."""
        what = "a scale" if self.uniform else "scales"
        return f"fusion ({what} for each child{', shared by the layers' if self.shared else ''})"

    @property
    def shares_layers(self) -> bool:
        """Whether the same scales serve in all layers."""
        return self.shared

    def reach(self, sites: Iterable[tuple[int, str]], backbone: BackboneSpec) -> frozenset[tuple[int, str]]:
        """Those sites; if layers share the scales, the same sites of all layers."""
        found = frozenset(sites)
        if not self.shared:
            return found
        names = {site for _, site in found}
        return frozenset((layer.index, site) for layer in backbone.layers for site in layer.sites if site in names)
