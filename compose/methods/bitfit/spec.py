"""The options of BitFit, and which biases they name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from compose.errors import ConfigError, Problem
from compose.methods.config import LAYERS, OPTIONAL_FLAG, Config, acts_nowhere, choices, option, unknown_layers
from compose.specs import LINEARS, ActingSpec, AdapterSpec, BackboneSpec, SiteSpec

SUBLAYERS = (("selfattn", "attn"), ("crossattn", "cross.attn"), ("ffn", "ffn"))
"""Which option chooses among the biases of which sub-layer."""
ATTENTION = (*LINEARS["attn"], "norm")
FEED_FORWARD = (*LINEARS["ffn"], "norm")
"""What may have a bias there: the maps, and the LayerNorm."""


@dataclass(frozen=True)
class BitFitConfig(Config):
    """Options of BitFit: of all the backbone's weights only biases are trained.

    Kept are the differences from the backbone's own biases, so that many tasks share one backbone. After
    Elad Ben Zaken, Shauli Ravfogel and Yoav Goldberg, "BitFit: Simple Parameter-efficient Fine-tuning for
    Transformer-based Masked Language-models", ACL 2022.

    Args:
        selfattn: of which of the self-attention's maps (q, k, v, o) and its LayerNorm (norm).
        crossattn: of which of those of the decoder's cross-attention.
        ffn: of which of the feed-forward block's maps (in, out) and its LayerNorm (norm).
        everywhere: at those that have no bias as well: there the difference is all the bias there is. None: where
            none of those named has one, as in LLaMA and T5.
        leave_out: layers without the adapter.

    Raises:
        ConfigError: with a problem for every option that is out of range.
    """

    method: ClassVar[str] = "bitfit"

    selfattn: tuple[str, ...] = option(ATTENTION, choices(*ATTENTION))
    crossattn: tuple[str, ...] = option(ATTENTION, choices(*ATTENTION))
    ffn: tuple[str, ...] = option(FEED_FORWARD, choices(*FEED_FORWARD))
    everywhere: bool | None = option(None, OPTIONAL_FLAG)
    leave_out: tuple[int, ...] = option((), LAYERS)

    @classmethod
    def conflicts(cls, values: Mapping[str, Any]) -> list[Problem]:
        """No bias at all."""
        if any(values[name] for name, _ in SUBLAYERS):
            return []
        return [Problem("no option names a bias: it would act nowhere", where=cls.method, hint="ffn=['in']")]

    def sites(self) -> tuple[str, ...]:
        """The sites that it names, where a layer has them."""
        return tuple(f"{sublayer}.{name}" for field, sublayer in SUBLAYERS for name in getattr(self, field))

    def describe(self, name: str, backbone: BackboneSpec) -> AdapterSpec:
        """Where it acts on a backbone; see `Config.describe`."""
        problems = unknown_layers(self.method, "leave_out", self.leave_out, len(backbone.layers))
        if problems:
            raise ConfigError(problems)
        named = [
            (layer.index, layer.sites[site])
            for layer in backbone.layers
            if layer.index not in self.leave_out
            for site in self.sites()
            if site in layer.sites
        ]
        everywhere = not any(site.bias for _, site in named) if self.everywhere is None else self.everywhere
        parts = tuple(self._acting(layer, site) for layer, site in named if site.bias or everywhere)
        if not parts and named:
            raise ConfigError(
                f"adapter {name!r} would act nowhere on this {backbone.architecture} backbone",
                where=self.method,
                why="none of what its options name has a bias",
                hint="everywhere=True: the difference is all the bias there is",
            )
        if not parts:
            raise acts_nowhere(self.method, name, backbone, "fewer layers in leave_out")
        return AdapterSpec(name, self.method, parts, fusible=False)

    def _acting(self, layer: int, site: SiteSpec) -> ActingSpec:
        return ActingSpec(
            layer=layer,
            site=site.name,
            rank=0,
            parameters=site.width_out,
            multiplies=0,
            increment_multiplies=0,
            shape=(self.method, site.width_out),
        )
