"""PEFT's DoRA and ours: a LoRA, and a magnitude for each channel of the result.

PEFT's norm is that of W + scaling B A, and the bias is left alone: `scaled_norm=True`, `scaled_bias=False`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from compose.errors import FileError, Problem
from compose.io.modules import BackboneModules
from compose.io.peft import lora
from compose.io.peft.maps import adapted_maps
from compose.io.records import AdapterRecord
from compose.methods.dora.spec import DoraConfig
from compose.methods.lora.spec import LoraConfig

MAGNITUDE = "lora_magnitude_vector"
LEAVES = (*lora.LEAVES, MAGNITUDE)
"""PEFT's names of the weights at a module."""

_OWN = ("scaled_norm", "scaled_bias")


def read(
    config: Mapping[str, Any], weights: Mapping[str, Mapping[str, Tensor]], modules: BackboneModules, where: str
) -> tuple[DoraConfig, dict[str, Tensor]]:
    """Our config and tensors by canonical name; see `Method`.

    Raises:
        FileError: as `lora.read`; and a magnitude that is missing or of another size, or a map that is adapted in
            some layers of those that are adapted only.
    """
    made, tensors = lora.read({**config, "use_dora": False}, weights, modules, where, whole=True)
    found = {name.rpartition(".")[0] + f".update.{name[-1]}": tensor for name, tensor in tensors.items()}
    problems: list[Problem] = []
    for path, own in weights.items():
        layer, sites = modules.linear_at(path)
        widths = [modules.spec.site(layer, site).width_out for site in sites]
        magnitude = own.get(MAGNITUDE)
        if magnitude is None or tuple(magnitude.shape) != (sum(widths),):
            shape = "missing" if magnitude is None else f"of shape {tuple(magnitude.shape)}, not ({sum(widths)},)"
            problems.append(Problem(f"{path}: '{MAGNITUDE}' is {shape}", where=where))
            continue
        for site, piece in zip(sites, magnitude.split(widths), strict=True):
            found[f"{layer}.{site}.magnitude"] = piece.clone()
    acting = made.describe("read", modules.spec).parts
    if not problems:
        problems = [
            Problem(f"layer {part.layer} has no '{part.site}', which other layers have", where=where)
            for part in acting
            if f"{part.layer}.{part.site}.magnitude" not in found
        ]
    if problems:
        raise FileError(problems)
    return DoraConfig.make({**made.to_dict(), "scaled_norm": True, "scaled_bias": False}), found


def write(
    record: AdapterRecord, modules: BackboneModules, what: str
) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """PEFT's config and weights; see `Method`.

    Raises:
        FileError: options that PEFT's DoRA does not have, or a fused map of which some parts are adapted only.
    """
    config = record.config
    assert isinstance(config, DoraConfig)
    parts = config.describe(record.name, modules.spec).parts
    problems = []
    if not config.scaled_norm and config.scale != 1:
        problems.append(Problem(f"{what}: PEFT's DoRA has no scaled_norm=False", hint="format='adapterhub'"))
    if config.scaled_bias and any(modules.spec.site(part.layer, part.site).bias for part in parts):
        problems.append(Problem(f"{what}: PEFT's DoRA has no scaled_bias=True", hint="format='adapterhub'"))
    for path, _, sites, adapted in adapted_maps(record, modules):
        if len(adapted) < len(sites):
            why = f"it adapts {path} as one, and so all of {', '.join(sites)}"
            problems.append(Problem(f"{what}: PEFT's DoRA cannot leave a part of a map as it is", why=why))
    if problems:
        raise FileError(problems)
    options = {name: value for name, value in config.to_dict().items() if name not in _OWN}
    factors = {name.replace(".update.", "."): tensor for name, tensor in record.tensors.items()}
    content, weights = lora.write(replace(record, config=LoraConfig.make(options), tensors=factors), modules, what)
    for path, own in weights.items():
        layer, sites = modules.linears[path]
        own[MAGNITUDE] = torch.cat([record.tensors[f"{layer}.{site}.magnitude"] for site in sites])
    return {**content, "use_dora": True}, weights
