"""PEFT's prefix tuning and ours.

A row of its tensor has the keys and values of a virtual token, layer after layer; where it trains an MLP its files
hold what that makes, as a flat prefix does here. PEFT hands them to the model as what it read before. So the text's
positions come after the virtual tokens, `counted=True` here. Where positions turn keys (LLaMA), queries that are n
positions further are the same as keys that are turned n positions back, and nothing is counted.

For an encoder-decoder PEFT lays the tensor out twice and deals four pieces to each layer of the decoder, of which the
first two are used: the keys and values of layer 2 i, counted round, for layer i.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from compose.errors import ComposeError, FileError, Problem
from compose.io.modules import BackboneModules
from compose.io.peft.virtual import LEAVES, common_content, rows_of, stacks_of
from compose.io.records import AdapterRecord, as_file_error
from compose.methods.adapter import Adapter
from compose.methods.prefix.flat import flat_tensors
from compose.methods.prefix.spec import LEARNED, RELATIVE, PrefixConfig
from compose.specs import BackboneSpec, SiteSpec

Place = tuple[int, SiteSpec]
"""A layer, and its attention's core."""


def read(
    config: Mapping[str, Any], weights: Mapping[str, Mapping[str, Tensor]], modules: BackboneModules, where: str
) -> tuple[PrefixConfig, dict[str, Tensor]]:
    """Our config and tensors by canonical name; see `Method`.

    Raises:
        FileError: weights that are missing or of another size, or a backbone that PEFT has no prefixes for.
    """
    spec = modules.spec
    _check_backbone(modules, where)
    places = _places(spec)
    width = places[0][1].width_out
    rows = rows_of(config, weights, len(places) * 2 * width, 1, where)
    length = len(rows)
    pieces = rows.unflatten(1, (len(places), 2, width)).permute(1, 2, 0, 3)  # layers, keys and values, tokens, width
    found = {}
    for (layer, site), source in zip(places, _sources(places, stacks_of(config, where)), strict=True):
        keys, values = pieces[source]
        found[f"{layer}.{site.name}.flat"] = torch.stack([_turned(keys, modules.rotary, -length), values])
    options = {"flat": True, "prefix_length": length, "encoder_prefix": False, "cross_prefix": False}
    try:
        return PrefixConfig.make({**options, "counted": _counts(spec)}), found
    except ComposeError as error:
        raise as_file_error(error, where) from error


def write(
    record: AdapterRecord, modules: BackboneModules, what: str
) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """PEFT's config and weights; see `Method`.

    Raises:
        FileError: options that PEFT's prefixes do not have.
    """
    config, spec = record.config, modules.spec
    assert isinstance(config, PrefixConfig)
    _check_backbone(modules, what)
    problems = [Problem(f"{what}: {fault}", why=why) for fault, why in _faults(config, spec)]
    if problems:
        raise FileError(problems)
    adapter = Adapter(record.name, config, spec).to(next(iter(record.tensors.values())).dtype)
    adapter.load_tensors(record.tensors)
    tensors, places = flat_tensors(adapter), _places(spec)
    pieces: dict[int, Tensor] = {}
    for (layer, site), source in zip(places, _sources(places, 2 if spec.encoder_decoder else 1), strict=True):
        keys, values = tensors[f"{layer}.{site.name}.flat"]
        piece = torch.stack([_turned(keys, modules.rotary, config.prefix_length), values])
        if not pieces.setdefault(source, piece).equal(piece):
            why = "in an encoder-decoder PEFT gives the keys and values of layer 2 i, counted round, to layer i"
            raise FileError(f"{what}: PEFT cannot give layer {layer} a prefix of its own", why=why)
    nothing = torch.zeros_like(pieces[0])
    rows = torch.stack([pieces.get(place, nothing) for place in range(len(places))]).permute(2, 0, 1, 3).flatten(1)
    width = spec.site(places[0][0], "attn.q").width_out  # keys may have fewer heads, which PEFT sees to
    content = {**common_content(config.prefix_length, width, modules), "prefix_projection": False}
    return content, {"": {LEAVES[0]: rows.contiguous()}}


def _check_backbone(modules: BackboneModules, where: str) -> None:
    if not _places(modules.spec) or (not _counts(modules.spec) and modules.rotary is None):
        raise FileError(
            f"PEFT's prefixes for a backbone of architecture '{modules.spec.architecture}'",
            where=where,
            why="it is not known where a text's positions begin after them",
            legal=(*LEARNED, *RELATIVE, "llama"),
        )


def _counts(spec: BackboneSpec) -> bool:
    return spec.architecture in (*LEARNED, *RELATIVE)


def _faults(config: PrefixConfig, spec: BackboneSpec) -> list[tuple[str, str]]:
    """What PEFT's format cannot say, and why."""
    found = []
    if config.use_gating:
        found.append(("PEFT's prefixes have no gate", ""))
    if config.dropout:
        found.append(("PEFT's prefixes have no dropout", ""))
    if config.leave_out:
        found.append(("PEFT's prefixes leave no layer out", "they are in all layers"))
    if spec.encoder_decoder and (config.encoder_prefix or config.cross_prefix):
        why = "they are in the decoder's self-attention alone"
        found.append(("PEFT has no encoder_prefix or cross_prefix", why))
    if _counts(spec) and not config.counted:
        found.append(("PEFT has no counted=False", "the text's positions come after its virtual tokens"))
    return found


def _places(spec: BackboneSpec) -> list[Place]:
    """The attentions that PEFT gives prefixes to: those within a stack, of an encoder-decoder the decoder's."""
    stack = spec.layers[-1].stack
    return [
        (layer.index, layer.sites["attn.core"])
        for layer in spec.layers
        if layer.stack == stack and "attn.core" in layer.sites
    ]


def _sources(places: Sequence[Place], stacks: int) -> list[int]:
    """For each attention in order, which piece of a row PEFT gives it."""
    return [stacks * place % len(places) for place in range(len(places))]


def _turned(keys: Tensor, rotary: Tensor | None, by: int) -> Tensor:
    """Keys as they are some positions further, or with a negative number back.

    Args:
        keys: [tokens, heads * head width].
        rotary: the angles from one position to the next, [head width / 2]; None where positions turn nothing.
        by: how many positions.
    """
    if rotary is None:
        return keys
    angles = rotary.double() * by
    first, second = keys.double().unflatten(1, (-1, 2, len(angles))).unbind(2)
    cos, sin = angles.cos(), angles.sin()
    return torch.stack([first * cos - second * sin, second * cos + first * sin], dim=2).flatten(1).to(keys.dtype)
