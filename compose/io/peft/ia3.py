"""PEFT's IA3 and ours.

PEFT scales what a map gives or, at its `feedforward_modules`, what it reads. Ours scales what a map gives. Both are the
same for the last map of a gated feed-forward block, which reads what the first one gives, times the gate.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from compose.errors import ComposeError, FileError, Problem
from compose.io.modules import BackboneModules
from compose.io.peft.maps import acting_options, adapted_maps, gate_problems
from compose.io.peft.patterns import short_names
from compose.io.records import AdapterRecord, as_file_error
from compose.methods.ia3.spec import Ia3Config

LEAVES = ("ia3_l",)
"""PEFT's name of the weight at a module."""

_GATES = (".gate_proj", ".wi_1")
"""How the names of modules end that only a gated feed-forward block has."""


def read(
    config: Mapping[str, Any], weights: Mapping[str, Mapping[str, Tensor]], modules: BackboneModules, where: str
) -> tuple[Ia3Config, dict[str, Tensor]]:
    """Our config and tensors by canonical name; see `Method`.

    Raises:
        FileError: a scaling of another size, or of what a map reads where ours cannot act.
    """
    found: dict[tuple[int, str], Tensor] = {}
    problems: list[Problem] = []
    gated = any(name.endswith(_GATES) for name in modules.names)
    for path, own in weights.items():
        layer, sites = modules.linear_at(path)
        scaling = own["ia3_l"]
        widths = [modules.spec.site(layer, site).width_out for site in sites]
        reads = (1, modules.spec.site(layer, sites[0]).width_in)
        if tuple(scaling.shape) == reads and sites == ("ffn.out",) and gated:
            sites, widths = ("ffn.in",), [reads[1]]
        elif tuple(scaling.shape) == reads != (sum(widths), 1):
            why = "ours scales what a map gives, and between the two maps is the activation"
            problems.append(Problem(f"{path}: a scaling of what the map reads", where=where, why=why))
            continue
        elif tuple(scaling.shape) != (sum(widths), 1):
            shape = f"{tuple(scaling.shape)}, not ({sum(widths)}, 1)"
            problems.append(Problem(f"{path}: 'ia3_l' is of shape {shape}", where=where))
            continue
        for site, piece in zip(sites, scaling.flatten().split(widths), strict=True):
            known = found.get((layer, site))
            found[layer, site] = piece.clone() if known is None else known * piece
    if not weights:
        problems.append(Problem("holds no weights", where=where))
    if problems:
        raise FileError(problems)
    try:
        made = Ia3Config.make(acting_options(found, modules.spec))
    except ComposeError as error:
        raise as_file_error(error, where) from error
    tensors = {}
    for part in made.describe("read", modules.spec).parts:
        width = modules.spec.site(part.layer, part.site).width_out
        own_scaling = found.get((part.layer, part.site))
        tensors[f"{part.layer}.{part.site}.scaling"] = torch.ones(width) if own_scaling is None else own_scaling
    return made, tensors


def write(
    record: AdapterRecord, modules: BackboneModules, what: str
) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """PEFT's config and weights; see `Method`.

    Raises:
        FileError: options that PEFT's IA3 does not have.
    """
    config = record.config
    assert isinstance(config, Ia3Config)
    if problems := gate_problems(config, "IA3", what):
        raise FileError(problems)
    weights: dict[str, dict[str, Tensor]] = {}
    for path, layer, sites, adapted in adapted_maps(record, modules):
        pieces = [
            record.tensors[f"{layer}.{site}.scaling"] * config.scale
            if site in adapted
            else torch.ones(modules.spec.site(layer, site).width_out)
            for site in sites
        ]
        weights[path] = {"ia3_l": torch.cat(pieces).unsqueeze(1)}
    content = {
        "target_modules": short_names(weights, modules.names),
        "feedforward_modules": [],
        "fan_in_fan_out": modules.transposed,
        "init_ia3_weights": True,
    }
    return content, weights
