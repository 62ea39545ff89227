"""The vocabulary of backbone tables: paths of modules, per stack and per sub-layer.

A table says where the layers are and, relative to a layer, where each site is. It is data: reading
the modules' shapes into a `BackboneSpec` is the work of `infer`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Fused:
    """A linear site that is one part of a fused map: the `index`-th of `parts` equal slices of its output."""

    path: str
    index: int
    parts: int


LinearPath = str | tuple[str, ...] | Fused
"""A path, alternatives of which the first that exists counts, or a part of a fused map."""


@dataclass(frozen=True)
class SubLayerTable:
    """One sub-layer; all paths are relative to the layer.

    Args:
        name: `attn`, `cross.attn` or `ffn`.
        value: the module whose output (or its first element) is y.
        residual: the module whose input is x; the residual is `residual_argument` of its call.
        norm: the LayerNorm that closes the site (post-norm), or None.
        linears: the short names of linear sites (`q`, `in`) and their modules.
        residual_argument: name of the argument that is x, None for the first.
        body: paths under which all of the sub-layer's linear maps lie, for counting; default: derived.
        core: the module that calls transformers' attention function, empty if there is none.
        prefix_score: what is added to the scores of virtual tokens.
    """

    name: str
    value: str
    residual: str
    norm: str | None = None
    linears: dict[str, LinearPath] = field(default_factory=dict)
    residual_argument: str | None = None
    body: tuple[str, ...] = ()
    core: str = ""
    prefix_score: float = 0.0


@dataclass(frozen=True)
class StackTable:
    """One stack of layers.

    Args:
        stack: `encoder` or `decoder`.
        module: path of the stack itself (its inputs are repeated where the encoder forked).
        layers: path of the list of layers, from the backbone's base model.
        sublayers: what a layer consists of, in order.
        batch_arguments: arguments of a layer that have one entry per row (or one for all).
    """

    stack: Literal["encoder", "decoder"]
    layers: str
    sublayers: tuple[SubLayerTable, ...]
    batch_arguments: tuple[str, ...]
    module: str = ""


Entry = Literal["states", "nothing", "unchanged"]
"""What a module before the layers answers where the layers are entered later: states, zeros, its own input."""


@dataclass(frozen=True)
class BackboneTable:
    """An architecture: its stacks and what else the compiler must know.

    Args:
        stacks: of layers, in the order in which they run.
        causal: whether tokens see only those before them.
        modality: what it reads.
        entry: the modules before the layers, and what stands in for each of them where known states are handed
            to a later layer; empty if it cannot be entered there.
        words_only: without an entry: the first layer is given the embeddings of words and nothing else, so that
            prompts can be put among them.
    """

    stacks: tuple[StackTable, ...]
    causal: bool = False
    modality: Literal["text", "image"] = "text"
    entry: Mapping[str, Entry] = field(default_factory=dict)
    words_only: bool = False
