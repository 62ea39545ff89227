"""Frozen, torch-free descriptions of backbones, adapters, fusions and heads.

These are the vocabulary that all layers share: graph, passes and cost read only these.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
RESERVED = frozenset({"None", "loss", "labels", "route", "tasks", "loss_weights"})

SUBLAYERS = ("attn", "cross.attn", "ffn")
LINEARS = {"attn": ("q", "k", "v", "o"), "ffn": ("in", "out")}
STATES = "states"
"""The site after the layers: y is the backbone's last state, its context the states of all layers."""
EMBED = "embed"
"""The site before the layers: y is what the embeddings hand to the first of them; an encoder-decoder's encoder's."""

LAYER = "layer"
"""The site after a layer's last sub-layer: y is the layer's output."""

Closing = Literal["backbone", "adapter"]
"""Who closes a sub-layer site: the backbone (residual addition and LayerNorm), or the adapter."""
FusionKind = Literal["attention", "scale", "scales"]
"""What weighs a fusion's children: attention, a scale for each, or one for each element of their increments."""


def linear_sites(sublayer: str) -> tuple[str, ...]:
    """The names of the linear sites of a sub-layer.

    >>> linear_sites("cross.attn")
    ('cross.attn.q', 'cross.attn.k', 'cross.attn.v', 'cross.attn.o')
    """
    prefix, _, kind = sublayer.rpartition(".")
    names = tuple(f"{kind}.{linear}" for linear in LINEARS[kind])
    return tuple(f"{prefix}.{name}" for name in names) if prefix else names


@dataclass(frozen=True)
class SiteSpec:
    """A place where an adapter may act.

    Args:
        name: `attn`, `ffn`, `attn.q`, `cross.attn.v`, `attn.core`, `ffn.norm`, `embed`, `layer`, `states`, ...
        kind: `sublayer` (y is a sub-layer's output), `linear` (y is a linear map's output), `core` (y is what an
            attention reads before its tokens' keys and values), `norm` (y is what a sub-layer's LayerNorm gives),
            `layer` (y is a layer's output), `embed` or `states`.
        width_in: width of the context c: the map's or the attention's input, or the hidden size.
        width_out: width of the value y; of a `core` that of the keys and of the values.
        memory: the map reads the encoder's states (keys and values of cross-attention).
        bias: what gives the value, a linear map or a LayerNorm, has a bias.
    """

    name: str
    kind: Literal["sublayer", "linear", "core", "norm", "embed", "layer", "states"]
    width_in: int
    width_out: int
    memory: bool = False
    bias: bool = False


@dataclass(frozen=True)
class SubLayerSpec:
    """A sub-layer: its value site, its linear sites, and what it costs.

    Args:
        site: the site of its output.
        norm: `post` if a LayerNorm closes the site after the residual addition, else `pre`.
        linears: the linear sites inside it.
        multiplies: multiply-adds a token of all its linear maps on the layer's own tokens.
        memory_multiplies: multiply-adds a token of its maps over the encoder's states.
        attention_width: heads x head width of its attention, 0 if it has none.
        core: the site of its attention itself, None if it has none.
        normed: the site of what its LayerNorm gives. In a post-norm layer that is the state that leaves the
            sub-layer; in a pre-norm layer it is what its linear maps read.
    """

    site: SiteSpec
    norm: Literal["post", "pre"]
    linears: tuple[SiteSpec, ...] = ()
    multiplies: int = 0
    memory_multiplies: int = 0
    attention_width: int = 0
    core: SiteSpec | None = None
    normed: SiteSpec | None = None

    @property
    def name(self) -> str:
        return self.site.name

    @cached_property
    def inner(self) -> tuple[SiteSpec, ...]:
        """The sites whose values the sub-layer itself reads, in the order in which it runs them."""
        before = (self.normed,) if self.normed is not None and self.norm == "pre" else ()
        return (*before, *self.linears, *(() if self.core is None else (self.core,)))

    @cached_property
    def exits(self) -> tuple[SiteSpec, ...]:
        """The sites from which a state leaves: its own, then that of a LayerNorm that closes it."""
        after = (self.normed,) if self.normed is not None and self.norm == "post" else ()
        return (self.site, *after)


@dataclass(frozen=True)
class LayerSpec:
    """One block of the backbone; `index` numbers them through encoder, then decoder."""

    index: int
    stack: Literal["encoder", "decoder"]
    sublayers: tuple[SubLayerSpec, ...]

    @cached_property
    def sites(self) -> dict[str, SiteSpec]:
        """Every site of the layer by name."""
        inside = {site.name: site for sub in self.sublayers for site in (*sub.inner, *sub.exits)}
        return {**inside, LAYER: self.output}

    @property
    def output(self) -> SiteSpec:
        """The site of its output."""
        width = self.sublayers[-1].site.width_out
        return SiteSpec(LAYER, "layer", width, width)


@dataclass(frozen=True)
class BackboneSpec:
    """What the compiler knows of a backbone.

    Args:
        architecture: transformers' `model_type`.
        hidden_size: width of the states.
        layers: the blocks, encoder first.
        causal: tokens see only what is before them (GPT-2, LLaMA).
        modality: `text` or `image`.
        input_multiplies: multiply-adds a row before the layers (patch embedding).
        fixed_multiplies: multiply-adds a row after them (poolers).
        tokens: tokens of a row where the input fixes them (images), else None.
        vocabulary: size of the vocabulary, 0 for images.
    """

    architecture: str
    hidden_size: int
    layers: tuple[LayerSpec, ...]
    causal: bool = False
    modality: Literal["text", "image"] = "text"
    input_multiplies: int = 0
    fixed_multiplies: int = 0
    tokens: int | None = None
    vocabulary: int = 0

    def __hash__(self) -> int:  # computed once: every cache of plans asks for it
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash((self.architecture, self.hidden_size, self.layers, self.fixed_multiplies))

    @property
    def encoder_decoder(self) -> bool:
        """Whether there is a decoder after an encoder."""
        return {layer.stack for layer in self.layers} == {"encoder", "decoder"}

    @property
    def states_key(self) -> tuple[int, str]:
        """The (layer, site) of what acts on all layers' states: no layer's, so the number after the last."""
        return (len(self.layers), STATES)

    @property
    def embed_key(self) -> tuple[int, str]:
        """The (layer, site) of what acts on the embeddings' output: no layer's, so the number before the first."""
        return (-1, EMBED)

    def site(self, layer: int, name: str) -> SiteSpec:
        """A site by (layer, site).

        Raises:
            KeyError: if there is none.
        """
        if (layer, name) == self.states_key:
            return SiteSpec(STATES, "states", self.hidden_size, self.hidden_size)
        if (layer, name) == self.embed_key:
            return SiteSpec(EMBED, "embed", self.hidden_size, self.hidden_size)
        if not 0 <= layer < len(self.layers):
            raise KeyError((layer, name))
        return self.layers[layer].sites[name]


@dataclass(frozen=True)
class ActingSpec:
    """An adapter's part at one site.

    Args:
        layer: index of the layer.
        site: name of the site.
        rank: width of the bottleneck or rank of the increment.
        parameters: number of weights.
        multiplies: multiply-adds a token.
        increment_multiplies: those of its increment alone.
        shape: parts of equal shape can run as one grouped product; anything hashable.
        closing: who closes the site after it.
        row_multiplies: further multiply-adds a row, whatever its tokens.
        pair_multiplies: further multiply-adds for each pair of a row's tokens.
        call_multiplies: further multiply-adds a call, whatever its rows.
        once_multiplies: the same of all of the adapter's parts together: of what makes a prefix.
        factored: whether its increment is a product of factors, `rank` wide, that can be left unmultiplied.
        biased: whether that increment has a constant term.
        reads_weights: whether it reads the map's own weights.
        ends: where it acts on some tokens at a row's ends only, how many these are, each end by itself:
            `multiplies` and `increment_multiplies` count for them alone. None: it acts on all tokens.
        columns: columns of its increment's up-projection, where these are not as many as its rank, and one for
            a constant term; else 0.
        added_tokens: how many tokens it puts among each row's.
        moves_text: whether the positions of a row's text begin further on, so that its embeddings are made again.
    """

    layer: int
    site: str
    rank: int
    parameters: int
    multiplies: int
    increment_multiplies: int
    shape: tuple[object, ...]
    closing: Closing = "backbone"
    row_multiplies: int = 0
    pair_multiplies: int = 0
    call_multiplies: int = 0
    once_multiplies: int = 0
    factored: bool = True
    biased: bool = False
    reads_weights: bool = False
    ends: tuple[int, ...] | None = None
    columns: int = 0
    added_tokens: int = 0
    moves_text: bool = False

    def acted(self, tokens: int) -> int:
        """On how many of a row's tokens it acts."""
        return tokens if self.ends is None else sum(min(end, tokens) for end in self.ends)


@dataclass(frozen=True)
class AdapterSpec:
    """What the compiler knows of an adapter.

    Args:
        name: its name.
        method: the kind of adapter.
        parts: where it acts.
        fusible: whether it has an increment, and so can be fused.
        shared_parameters: number of weights that its parts have in common; no part counts them.
    """

    name: str
    method: str
    parts: tuple[ActingSpec, ...]
    fusible: bool = True
    shared_parameters: int = 0

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash((self.name, self.method, self.parts))

    @cached_property
    def by_site(self) -> dict[tuple[int, str], ActingSpec]:
        """Its parts by (layer, site)."""
        return {(part.layer, part.site): part for part in self.parts}


@dataclass(frozen=True)
class FusionSpec:
    """What the compiler knows of a fusion: its own weights exist at `sites`.

    Args:
        name: its own name.
        sites: (layer, site) pairs at which it has weights.
        query, key, value: which matrices it has.
        kind: what weighs the children.
        children: of those that scale, how many they are for; attention weighs any number.
    """

    name: str
    sites: frozenset[tuple[int, str]]
    query: bool = True
    key: bool = True
    value: bool = True
    kind: FusionKind = "attention"
    children: int = 0

    @property
    def by_place(self) -> bool:
        """Whether each child has weights of its own, by its place in the Fuse."""
        return self.kind != "attention"


@dataclass(frozen=True)
class HeadSpec:
    """What the compiler knows of a head.

    Args:
        name: its name, and so the task's.
        kind: `classification`, `tagging`, `question_answering`, `causal_lm`, `masked_lm`, `custom`, ...
        token_multiplies: multiply-adds a token.
        row_multiplies: multiply-adds a row.
    """

    name: str
    kind: str
    token_multiplies: int = 0
    row_multiplies: int = 0
