"""Backbone specs by hand, and sites with random values, for tests of methods alone."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from hypothesis import settings
from torch import Tensor, nn

from compose.methods.adapter import Adapter
from compose.methods.part import Context, Part
from compose.methods.registry import make_config
from compose.specs import BackboneSpec, LayerSpec, SiteSpec, SubLayerSpec, linear_sites


def sublayer(name: str, width: int, inner: int) -> SubLayerSpec:
    widths = {"in": (width, inner), "out": (inner, width)}
    linears = tuple(
        SiteSpec(linear, "linear", *widths.get(linear.rpartition(".")[2], (width, width)), bias=True)
        for linear in linear_sites(name)
    )
    core = SiteSpec(f"{name}.core", "core", width, width) if name.endswith("attn") else None
    normed = SiteSpec(f"{name}.norm", "norm", width, width, bias=True)
    return SubLayerSpec(SiteSpec(name, "sublayer", width, width), "post", linears, core=core, normed=normed)


def encoder(layers: int = 2, width: int = 12, inner: int = 20) -> BackboneSpec:
    """A BERT."""
    blocks = tuple(
        LayerSpec(index, "encoder", (sublayer("attn", width, inner), sublayer("ffn", width, inner)))
        for index in range(layers)
    )
    return BackboneSpec("bert", width, blocks)


def encoder_decoder(width: int = 12, inner: int = 20) -> BackboneSpec:
    """A T5 of two and two layers."""
    names: dict[Any, tuple[str, ...]] = {"encoder": ("attn", "ffn"), "decoder": ("attn", "cross.attn", "ffn")}
    stacks: tuple[Any, ...] = ("encoder", "encoder", "decoder", "decoder")
    blocks = tuple(
        LayerSpec(index, stack, tuple(sublayer(name, width, inner) for name in names[stack]))
        for index, stack in enumerate(stacks)
    )
    return BackboneSpec("t5", width, blocks)


FEWER = settings(max_examples=max(1, settings.default.max_examples // 4))
"""Of the draws asked for, a quarter: for properties of one method, which are no laws of the whole."""

BERT_BASE = encoder(12, 768, 3072)


def randomised(module: nn.Module) -> Any:
    """A module in float64 with random weights of a size that makes every one matter."""
    module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.5)
    return module


def adapter(preset: str = "seq_bn", spec: BackboneSpec | None = None, **options: Any) -> Adapter:
    return Adapter("a", make_config(preset, **options), spec or encoder())


class Site(NamedTuple):
    """A value and its context."""

    y: Tensor
    context: Context


def site_of(spec: BackboneSpec, name: str, rows: int = 3, tokens: int = 5, norm: bool = True) -> Site:
    """Random float64 values at a site, with a LayerNorm of random weights."""
    site = spec.layers[-1].sites[name]
    y = torch.randn(rows, tokens, site.width_out, dtype=torch.float64)
    if site.kind == "linear":
        given = torch.randn(rows, tokens, site.width_in, dtype=torch.float64)
        return Site(y, Context(input=given))
    if site.kind == "norm":
        return Site(y, Context())
    layer_norm = randomised(nn.LayerNorm(site.width_out)) if norm else None
    return Site(y, Context(residual=torch.randn_like(y), norm=layer_norm))


def stacked(sites: list[Site]) -> Site:
    """The values of several sites as a group takes them; the norm is the first one's."""

    def stack(tensors: list[Tensor | None]) -> Tensor | None:
        return torch.stack([t for t in tensors if t is not None]) if tensors[0] is not None else None

    return Site(
        torch.stack([site.y for site in sites]),
        Context(
            residual=stack([site.context.residual for site in sites]),
            norm=sites[0].context.norm,
            input=stack([site.context.input for site in sites]),
        ),
    )


def first_part(made: Adapter) -> Part:
    at = made.spec.parts[0]
    return made.part(at.layer, at.site)
