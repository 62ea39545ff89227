"""Backbones, adapters and fusions as specs alone, made by hand: the compiler needs nothing else."""

from __future__ import annotations

from typing import Any, Literal

from compose.dsl import Expression, fuses, own_name
from compose.graph.check import fusion_sites
from compose.graph.sites import Vocabulary
from compose.methods.registry import make_config
from compose.specs import BackboneSpec, FusionSpec, LayerSpec, SiteSpec, SubLayerSpec, linear_sites

WIDTH = 16
INNER = 32
VOCABULARY = 100

ADAPTERS: dict[str, tuple[str, dict[str, Any]]] = {
    "a": ("seq_bn", {"bottleneck_size": 4}),
    "b": ("seq_bn", {"bottleneck_size": 4}),
    "c": ("seq_bn", {"bottleneck_size": 2, "mh_adapter": True, "output_adapter": False}),
    "d": ("double_seq_bn", {"bottleneck_size": 4}),
    "p": ("par_bn", {"bottleneck_size": 4, "dropout": 0.1}),
    "own": ("seq_bn", {"bottleneck_size": 4, "original_ln_after": False}),
    "q": ("lora", {"r": 2, "attn_matrices": ["q"]}),
    "v": ("lora", {"r": 2, "attn_matrices": ["q", "v"], "intermediate_lora": True}),
    "s": ("loreft", {"r": 2, "suffix_positions": 1}),
    "t": ("loreft", {"r": 2, "suffix_positions": 1, "layers": [0]}),
}

UNFUSIBLE: dict[str, tuple[str, dict[str, Any]]] = {"n": ("bitfit", {"selfattn": ["norm"], "ffn": ["norm"]})}

Kind = Literal["post", "pre", "both"]
KINDS: tuple[Kind, ...] = ("post", "pre", "both")


def backbone(kind: Kind = "post", layers: int = 2) -> BackboneSpec:
    """A backbone of `layers` layers a stack.

    Args:
        kind: a post-norm encoder, a pre-norm decoder, or an encoder and a decoder, pre-norm.
        layers: of each stack.
    """
    if kind == "both":
        encoder = [_layer(index, "encoder", "pre") for index in range(layers)]
        decoder = [_layer(layers + index, "decoder", "pre", cross=True) for index in range(layers)]
        return BackboneSpec("both", WIDTH, (*encoder, *decoder), vocabulary=VOCABULARY)
    stack: Literal["encoder", "decoder"] = "encoder" if kind == "post" else "decoder"
    blocks = tuple(_layer(index, stack, kind) for index in range(layers))
    fixed = WIDTH * WIDTH if kind == "post" else 0
    return BackboneSpec(kind, WIDTH, blocks, kind == "pre", fixed_multiplies=fixed, vocabulary=VOCABULARY)


def _layer(
    index: int, stack: Literal["encoder", "decoder"], norm: Literal["post", "pre"], cross: bool = False
) -> LayerSpec:
    names = ["attn", *(["cross.attn"] if cross else []), "ffn"]
    return LayerSpec(index, stack, tuple(_sublayer(name, norm) for name in names))


def _sublayer(name: str, norm: Literal["post", "pre"]) -> SubLayerSpec:
    square = WIDTH * WIDTH
    linears = tuple(_linear(site) for site in linear_sites(name))
    memory = 2 * square if name == "cross.attn" else 0
    multiplies = 2 * WIDTH * INNER if name == "ffn" else 4 * square - memory
    attention = 0 if name == "ffn" else WIDTH
    normed = SiteSpec(f"{name}.norm", "norm", WIDTH, WIDTH, bias=True)
    site = SiteSpec(name, "sublayer", WIDTH, WIDTH)
    return SubLayerSpec(site, norm, linears, multiplies, memory, attention, normed=normed)


def _linear(site: str) -> SiteSpec:
    widths = {"ffn.in": (WIDTH, INNER), "ffn.out": (INNER, WIDTH)}.get(site, (WIDTH, WIDTH))
    return SiteSpec(site, "linear", *widths, memory=site in ("cross.attn.k", "cross.attn.v"))


def vocabulary(kind: Kind = "post", layers: int = 2, expression: Expression = None) -> Vocabulary:
    """All of `ADAPTERS` and `UNFUSIBLE` over a backbone, and weights for the fusions of an expression."""
    spec = backbone(kind, layers)
    adapters = {
        name: make_config(method, **options).describe(name, spec)
        for name, (method, options) in {**ADAPTERS, **UNFUSIBLE}.items()
    }
    bare = Vocabulary(spec, adapters, {})
    fusions: dict[str, FusionSpec] = {}
    for fuse in fuses(expression):
        name = own_name(fuse)
        if name is not None:
            # Two fusions of one name share their weights.
            known = fusions[name].sites if name in fusions else frozenset()
            fusions[name] = FusionSpec(name, known | fusion_sites(fuse, bare))
    return Vocabulary(spec, adapters, fusions)
