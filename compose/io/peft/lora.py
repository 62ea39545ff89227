"""PEFT's LoRA and ours.

Two things differ. PEFT gives each module a rank and a scaling of its own: ours has one of each, so smaller ranks
are filled up with zeros, and what differs in scaling goes into `b`. And PEFT adapts a fused map (GPT-2's `c_attn`) as
one, with one A: ours acts on q, k and v apart. Read, the three share that A and have the rows of B; written, A is the
one that they share, else theirs one below the other, and B is theirs along a diagonal. Both are exact.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from compose.errors import ComposeError, FileError, Problem
from compose.io.modules import BackboneModules
from compose.io.peft.maps import acting_options, adapted_maps, gate_problems
from compose.io.peft.patterns import check_patterns, find, short_names
from compose.io.records import AdapterRecord, as_file_error
from compose.methods.config import is_count, is_number
from compose.methods.lora.spec import LoraConfig
from compose.specs import BackboneSpec

LEAVES = {"lora_A.weight": "a", "lora_B.weight": "b"}
"""PEFT's names of the weights at a module, and ours."""

_INITS = (True, False, None, "gaussian", "eva", "orthogonal")
_REFUSED = {
    "use_dora": "DoRA",
    "use_qalora": "QALoRA",
    "use_bdlora": "block-diagonal LoRA",
    "lora_bias": "a bias in B",
    "layer_replication": "replicated layers",
    "trainable_token_indices": "trained tokens",
    "target_parameters": "adapted parameters",
    "alora_invocation_tokens": "activated LoRA",
    "arrow_config": "Arrow",
    "kasa_config": "KaSA",
    "velora_config": "VeLoRA",
    "megatron_config": "Megatron",
}
"""Options of PEFT's under which the same weights mean something else."""


def read(
    config: Mapping[str, Any],
    weights: Mapping[str, Mapping[str, Tensor]],
    modules: BackboneModules,
    where: str,
    whole: bool = False,
) -> tuple[LoraConfig, dict[str, Tensor]]:
    """Our config and tensors by canonical name; see `Method`.

    Args:
        config, weights, modules, where: see `Method`.
        whole: all parts of a fused map are adapted, those too to which nothing is added.

    Raises:
        FileError: an option that is not read, or weights that do not fit each other or the config.
    """
    _check(config, where)
    ranks = check_patterns(config.get("rank_pattern"), "rank_pattern", where)
    alphas = check_patterns(config.get("alpha_pattern"), "alpha_pattern", where)
    parts: dict[tuple[int, str], tuple[Tensor, Tensor]] = {}
    scales: dict[tuple[int, str], float] = {}
    problems: list[Problem] = []
    for path, own in weights.items():
        layer, sites = modules.linear_at(path)
        # PEFT's own prefix does not matter: a pattern with an anchor means a path from the top
        rank = find(ranks, path, config.get("r", 8))
        problem = _misfit(path, own, rank, modules.spec, layer, sites, where)
        if problem:
            problems.append(problem)
            continue
        a, b = own["lora_A.weight"], own["lora_B.weight"]
        shared = [(a, block) for block in b.chunk(len(sites))]
        for site, part in zip(sites, shared if whole else _parted(a, b, len(sites)), strict=True):
            if part is not None:
                parts[layer, site] = part
                scales[layer, site] = scaling(find(alphas, path, config.get("lora_alpha", 8)), rank, config)
    if problems:
        raise FileError(problems)
    if not parts:
        raise FileError("holds no weights", where=where)
    rank = max(len(a) for a, _ in parts.values())
    # the scaling that most modules have stays outside their weights
    common = max(set(scales.values()), key=lambda scale: (list(scales.values()).count(scale), scale))
    made = _config(config, parts, rank, common, modules.spec, where)
    tensors: dict[str, Tensor] = {}
    for acting in made.describe("read", modules.spec).parts:
        place = acting.layer, acting.site
        widths = modules.spec.site(*place)
        a = torch.zeros(rank, widths.width_in)
        b = torch.zeros(widths.width_out, rank)
        if place in parts:
            own_a, own_b = parts[place]
            a, b = a.to(own_a.dtype), b.to(own_b.dtype)
            a[: len(own_a)] = own_a
            b[:, : len(own_a)] = own_b if scales[place] == common else own_b * (scales[place] / common)
        tensors[f"{acting.layer}.{acting.site}.a"], tensors[f"{acting.layer}.{acting.site}.b"] = a, b
    return made, tensors


def write(
    record: AdapterRecord, modules: BackboneModules, what: str
) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """PEFT's config and weights; see `Method`.

    Raises:
        FileError: options that PEFT's LoRA does not have.
    """
    config = record.config
    assert isinstance(config, LoraConfig)
    if problems := gate_problems(config, "LoRA", what):
        raise FileError(problems)
    weights: dict[str, dict[str, Tensor]] = {}
    for path, layer, sites, adapted in adapted_maps(record, modules):
        factors = {site: (record.tensors[f"{layer}.{site}.a"], record.tensors[f"{layer}.{site}.b"]) for site in adapted}
        a, b = _joined(factors, sites)
        weights[path] = {"lora_A.weight": a, "lora_B.weight": b}
    ranks = {path: len(own["lora_A.weight"]) for path, own in weights.items()}
    common = max(set(ranks.values()), key=list(ranks.values()).count)
    others = {
        name: rank
        for rank in sorted(set(ranks.values()) - {common})
        for name in short_names([path for path, own in ranks.items() if own == rank], weights)
    }
    content = {
        "r": common,
        "lora_alpha": _plain(config.scale * common),
        "lora_dropout": config.dropout,
        "target_modules": short_names(weights, modules.names),
        "rank_pattern": others,
        "alpha_pattern": {name: _plain(config.scale * rank) for name, rank in others.items()},
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
        "init_lora_weights": True,
        "fan_in_fan_out": modules.transposed,
    }
    return content, weights


def scaling(alpha: float, rank: int, config: Mapping[str, Any]) -> float:
    """What PEFT multiplies the product of the factors by."""
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _check(config: Mapping[str, Any], where: str) -> None:
    problems = [
        Problem(f"{feature}: not read", where=where, why=f"'{option}' is set")
        for option, feature in _REFUSED.items()
        if config.get(option)
    ]
    if not is_count(config.get("r", 8), 1):
        problems.append(Problem(f"'r' is {config['r']!r}, not a whole number of at least 1", where=where))
    if not is_number(config.get("lora_alpha", 8)):
        problems.append(Problem(f"'lora_alpha' is {config['lora_alpha']!r}, not a number", where=where))
    if config.get("bias", "none") != "none":
        why = f"'bias' is {config['bias']!r}: such files hold biases in full, not what training changed of them"
        hint = "bias='none' in PEFT; here a union of lora and bitfit trains both"
        problems.append(Problem("trained biases of the backbone: not read", where=where, why=why, hint=hint))
    if config.get("init_lora_weights", True) not in _INITS:
        why = f"init_lora_weights={config['init_lora_weights']!r} changes the backbone's own weights"
        hint = "in PEFT: save_pretrained(..., path_initial_model_for_weight_conversion=...)"
        problems.append(Problem("made over a changed backbone", where=where, why=why, hint=hint))
    if problems:
        raise FileError(problems)


def _misfit(
    path: str,
    own: Mapping[str, Tensor],
    rank: object,
    spec: BackboneSpec,
    layer: int,
    sites: tuple[str, ...],
    where: str,
) -> Problem | None:
    """What is wrong with the weights of a module."""
    missing = [leaf for leaf in LEAVES if leaf not in own]
    if missing:
        return Problem(f"{path}: '{missing[0]}' is missing", where=where)
    a, b = own["lora_A.weight"], own["lora_B.weight"]
    widths = [spec.site(layer, site) for site in sites]
    needed = [(rank, widths[0].width_in), (sum(site.width_out for site in widths), rank)]
    if [tuple(a.shape), tuple(b.shape)] != needed:
        shapes = f"{tuple(a.shape)} and {tuple(b.shape)}, but {needed[0]} and {needed[1]} are needed"
        return Problem(f"{path}: A and B have the shapes {shapes}", where=where)
    return None


def _config(
    config: Mapping[str, Any],
    parts: Mapping[tuple[int, str], Any],
    rank: int,
    scale: float,
    spec: BackboneSpec,
    where: str,
) -> LoraConfig:
    """The config under which an adapter acts wherever the file has weights."""
    options = {
        **acting_options(parts, spec),
        "r": rank,
        "alpha": scale * rank,
        "dropout": config.get("lora_dropout", 0.0),
    }
    try:
        return LoraConfig.make(options)
    except ComposeError as error:
        raise as_file_error(error, where) from error


def _parted(a: Tensor, b: Tensor, count: int) -> list[tuple[Tensor, Tensor] | None]:
    """The factors of each of `count` equal parts of a map's output; None where nothing is added.

    Where no two parts use the same rows of A, each has its own. Else all share them.
    """
    if count == 1:
        return [(a, b)]
    blocks = b.chunk(count)
    used = torch.stack([(block != 0).any(dim=0) for block in blocks])
    if not used.any() or (used.sum(dim=0) > 1).any():
        return [(a, block) for block in blocks]
    pairs = zip(used, blocks, strict=True)
    return [(a[rows], block[:, rows]) if rows.any() else None for rows, block in pairs]


def _joined(parts: Mapping[str, tuple[Tensor, Tensor]], sites: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """The factors of a map from those of its parts, in the order of `sites`."""
    if len(sites) == 1:
        return parts[sites[0]]
    found = list(parts.values())
    if len(parts) == len(sites) and all(a.equal(found[0][0]) for a, _ in found):
        return found[0][0], torch.cat([parts[site][1] for site in sites])
    a = torch.cat([parts[site][0] for site in sites if site in parts])
    rank, width = found[0][1].shape[1], found[0][1].shape[0]
    b = a.new_zeros(width * len(sites), len(a))
    column = 0
    for index, site in enumerate(sites):
        if site in parts:
            b[index * width : (index + 1) * width, column : column + rank] = parts[site][1]
            column += rank
    return a, b


def _plain(number: float) -> float | int:
    """A whole number as PEFT types it."""
    return int(number) if number == int(number) else number
