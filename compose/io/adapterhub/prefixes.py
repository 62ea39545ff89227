"""AdapterHub's files of prefixes: one MLP or one vector for all attentions of a kind, and again under every layer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from compose.errors import FileError, Problem
from compose.io.adapterhub.keys import KEYS
from compose.methods.prefix.spec import PrefixConfig, place_of
from compose.methods.tensors import SHARED_PREFIX
from compose.specs import BackboneSpec

PLACES = {"encoder": "encoder_prefix", "self": "self_prefix", "cross": "cross_prefix"}
"""Our names of what attentions have in common, and theirs."""
_OTHER_PLACES = {"distilbert": {"self": "self"}}

ATTENTIONS: Mapping[str, Mapping[str, str]] = {
    "bert": {"attention.self": "attn"},
    "roberta": {"attention.self": "attn"},
    "xlm-roberta": {"attention.self": "attn"},
    "distilbert": {"attention": "attn"},
    "gpt2": {"attn": "attn"},
    "llama": {"self_attn": "attn"},
    "t5": {"layer.0.SelfAttention": "attn", "layer.1.EncDecAttention": "cross.attn"},
    "vit": {"attention.attention": "attn"},
}
"""By architecture the attention modules of a layer, and their sub-layers: gates lie there."""

_SOURCE = (
    (r"wte\.weight", "embedding"),
    (r"control_trans\.0\.(weight|bias)", r"down.\1"),
    (r"control_trans\.1\.f\.(\w+)", r"activation.\1"),
)
_KEY = re.compile(r"(?:.+\.)?prefix_tuning\.(?:pool\.)?prefix_tunings\.([^.]+)\.([^.]+)\.(.+)")
_GATE = re.compile(r"(.+)\.prefix_tuning\.prefix_gates\.([^.]+)\.(weight|bias)")


class _Attention(NamedTuple):
    """An attention where the prefix acts."""

    layer: int
    site: str


def read_prefixes(
    tensors: Mapping[str, Tensor], backbone: BackboneSpec, config: PrefixConfig, name: str, path: str
) -> dict[str, Tensor]:
    """A prefix's tensors by canonical name.

    Args:
        tensors: tensors by AdapterHub's keys.
        backbone: the backbone.
        config: the adapter's config.
        name: what the file calls it.
        path: the file, for errors.

    Raises:
        FileError: naming every tensor that has no place, or contradicts another.
    """
    reader = _Reader(backbone, config, name)
    problems = []
    for key, tensor in tensors.items():
        fault = reader.read(key, tensor)
        if fault:
            problems.append(Problem(f"tensor '{key}' has no place", where=path, why=fault))
    if problems:
        raise FileError(problems)
    return reader.placed


class _Reader:
    def __init__(self, backbone: BackboneSpec, config: PrefixConfig, name: str) -> None:
        self.backbone = backbone
        self.name = name
        self.placed: dict[str, Tensor] = {}
        self.places: dict[str, list[_Attention]] = {}
        renamed = {**PLACES, **_OTHER_PLACES.get(backbone.architecture, {})}
        for part in config.describe(name, backbone).parts:
            place = place_of(backbone, part.layer, part.site)
            self.places.setdefault(renamed[place], []).append(_Attention(part.layer, part.site))
        self.ours = {theirs: ours for ours, theirs in renamed.items()}
        self.seen: dict[str, Tensor] = {}

    def read(self, key: str, tensor: Tensor) -> str:
        """Takes a tensor; gives in words why it cannot, or an empty text."""
        gate = _GATE.fullmatch(key)
        match = _KEY.fullmatch(key)
        if gate is not None:
            return self._gate(gate[1], gate[2], gate[3], tensor)
        if match is None:
            return "it belongs to no prefix, but the config is that of one"
        owner, place, parameter = match.groups()
        if owner != self.name:
            return f"it belongs to '{owner}', the config to '{self.name}'"
        if place not in self.places:
            return f"the prefix acts at {', '.join(self.places)}"
        known = self.seen.setdefault(f"{place}.{parameter}", tensor)
        if known is not tensor:  # every layer has the same ones again
            same = known.shape == tensor.shape and known.equal(tensor)
            return "" if same else "it contradicts another of the same weight"
        return self._parameter(place, parameter, tensor)

    def _parameter(self, place: str, parameter: str, tensor: Tensor) -> str:
        attentions = self.places[place]
        for pattern, ours in _SOURCE:
            match = re.fullmatch(pattern, parameter)
            if match:
                self.placed[f"{SHARED_PREFIX}{self.ours[place]}.{match.expand(ours)}"] = tensor
                return ""
        last = re.fullmatch(r"control_trans\.2\.(weight|bias)", parameter)
        if last is None and parameter != "control_trans":
            return f"its config gives it no '{parameter}'"
        if tensor.dim() == 0 or tensor.shape[0] % (2 * len(attentions)):
            return f"it cannot be divided among {len(attentions)} attentions"
        if last is not None:
            pieces = list(tensor.chunk(len(attentions)))
        else:
            pieces = self._flat(tensor, attentions)
            if not pieces:
                return "its size does not fit the number of virtual tokens"
        suffix = "flat" if last is None else f"up.{last[1]}"
        for (layer, site), piece in zip(attentions, pieces, strict=True):
            self.placed[f"{layer}.{site}.{suffix}"] = piece.clone()
        return ""

    def _flat(self, vector: Tensor, attentions: list[_Attention]) -> list[Tensor]:
        """Keys and values [2, length, width] of each attention; none if the size does not fit."""
        layer, site = attentions[0]
        width = self.backbone.site(layer, site).width_out
        if vector.dim() != 1 or len(vector) % (2 * len(attentions) * width):
            return []
        return list(vector.unflatten(0, (-1, len(attentions), 2, width)).permute(1, 2, 0, 3).contiguous())

    def _gate(self, module: str, owner: str, parameter: str, tensor: Tensor) -> str:
        if owner != self.name:
            return f"it belongs to '{owner}', the config to '{self.name}'"
        keys = KEYS[self.backbone.architecture]
        for prefix in keys.prefixes:
            module = module.removeprefix(prefix)
        every = [attention for attentions in self.places.values() for attention in attentions]
        for stack in keys.stacks:
            match = re.fullmatch(rf"{re.escape(stack.layers)}\.(\d{{1,6}})\.(.+)", module)
            sublayer = ATTENTIONS[self.backbone.architecture].get(match[2]) if match else None
            if match is None or sublayer is None:
                continue
            first = next(layer.index for layer in self.backbone.layers if layer.stack == stack.stack)
            layer, site = first + int(match[1]), f"{sublayer}.core"
            if (layer, site) not in every:
                return "the prefix does not act there"
            self.placed[f"{layer}.{site}.gate.{parameter}"] = tensor
            return ""
        return f"there is no such module in a {self.backbone.architecture} backbone"


def prefix_tensors(
    placed: Mapping[str, Tensor], backbone: BackboneSpec, config: PrefixConfig, name: str
) -> dict[str, Tensor]:
    """The same backwards: a prefix's tensors by AdapterHub's keys, each once, without what stands before them.

    Gates lie under their attention module, all else under `prefix_tuning.prefix_tunings`, from where AdapterHub reads
    it.

    Args:
        placed: tensors by canonical name.
        backbone: the backbone.
        config: the adapter's config.
        name: what the file is to call it.
    """
    found: dict[str, Tensor] = {}
    reader = _Reader(backbone, config, name)
    modules = {f"{sublayer}.core": module for module, sublayer in ATTENTIONS[backbone.architecture].items()}
    for theirs, attentions in reader.places.items():
        start = f"prefix_tuning.prefix_tunings.{name}.{theirs}"

        def every(suffix: str, attentions: list[_Attention] = attentions) -> list[Tensor]:
            return [placed[f"{layer}.{site}.{suffix}"] for layer, site in attentions]

        if config.flat:
            found[f"{start}.control_trans"] = torch.stack(every("flat")).permute(2, 0, 1, 3).flatten()
        else:
            found |= {f"{start}.control_trans.2.{each}": torch.cat(every(f"up.{each}")) for each in ("weight", "bias")}
            before = f"{SHARED_PREFIX}{reader.ours[theirs]}."
            for ours, tensor in placed.items():
                if ours.startswith(before):
                    found[f"{start}.{_their_source(ours.removeprefix(before))}"] = tensor
        for layer, site in attentions if config.gates else ():
            stack = next(
                each for each in KEYS[backbone.architecture].stacks if each.stack == backbone.layers[layer].stack
            )
            first = next(each.index for each in backbone.layers if each.stack == stack.stack)
            module = f"{stack.layers}.{layer - first}.{modules[site]}.prefix_tuning.prefix_gates.{name}"
            found |= {f"{module}.{each}": placed[f"{layer}.{site}.gate.{each}"] for each in ("weight", "bias")}
    return found


def _their_source(ours: str) -> str:
    """Their name of a source's weight."""
    if ours == "embedding":
        return "wte.weight"
    module, _, weight = ours.partition(".")
    return f"control_trans.0.{weight}" if module == "down" else f"control_trans.1.f.{weight}"
