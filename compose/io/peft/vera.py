"""PEFT's VeRA and ours.

PEFT scales nothing: `alpha` is `r`. The random factors are shared in both, and narrower maps use the first columns and
rows of them. A fused map (GPT-2's `c_attn`) is one map to PEFT, so that q, k and v have one d, and rows of B one below
the other: `stacked=True`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from compose.errors import ComposeError, FileError, Problem
from compose.io.modules import BackboneModules
from compose.io.peft.maps import acting_options, adapted_maps, gate_problems
from compose.io.peft.patterns import short_names
from compose.io.records import AdapterRecord, as_file_error
from compose.methods.config import is_count
from compose.methods.tensors import SHARED_PREFIX
from compose.methods.vera.spec import VeraConfig
from compose.specs import BackboneSpec, LayerSpec

OWN = {"vera_lambda_d": "d", "vera_lambda_b": "b"}
"""PEFT's names of the weights at a module, and ours."""
FACTORS = {"vera_A": "a", "vera_B": "b"}
"""Those of the random factors, which belong to no module."""
LEAVES = (*OWN, *FACTORS)


def read(
    config: Mapping[str, Any], weights: Mapping[str, Mapping[str, Tensor]], modules: BackboneModules, where: str
) -> tuple[VeraConfig, dict[str, Tensor]]:
    """Our config and tensors by canonical name; see `Method`.

    Raises:
        FileError: an option that is not read, or weights that are missing or of another size.
    """
    spec = modules.spec
    problems = list(_option_problems(config, where))
    if problems:
        raise FileError(problems)
    rank = config.get("r", 256)
    vectors: dict[tuple[int, str], tuple[Tensor, Tensor]] = {}
    sizes = []
    stacked = False
    for path, own in weights.items():
        if not path:
            continue
        layer, sites = modules.linear_at(path)
        widths = [spec.site(layer, site).width_out for site in sites]
        missing = [leaf for leaf in OWN if leaf not in own]
        needed = {"vera_lambda_d": (rank,), "vera_lambda_b": (sum(widths),)}
        problems += [Problem(f"{path}: '{leaf}' is missing", where=where) for leaf in missing]
        problems += [
            Problem(f"{path}: '{leaf}' is of shape {tuple(tensor.shape)}, not {needed[leaf]}", where=where)
            for leaf, tensor in own.items()
            if leaf in needed and tuple(tensor.shape) != needed[leaf]
        ]
        if problems:
            continue
        stacked |= len(sites) > 1
        sizes.append((sum(widths), spec.site(layer, sites[0]).width_in))
        for site, piece in zip(sites, own["vera_lambda_b"].split(widths), strict=True):
            vectors[layer, site] = own["vera_lambda_d"].clone(), piece.clone()
    if not sizes and not problems:
        problems.append(Problem("holds no weights", where=where))
    if problems:
        raise FileError(problems)
    made = _config(config, vectors, rank, stacked, spec, where)
    given = {name: tensor for name, tensor in weights.get("", {}).items() if name in FACTORS}
    factors = _factors(config, given, rank, sizes, where)
    tensors: dict[str, Tensor] = {}
    acting = [(part.layer, spec.site(part.layer, part.site)) for part in made.describe("read", spec).parts]
    for layer, place in acting:
        nothing = torch.full((rank,), made.vera_d), torch.zeros(place.width_out)
        d, b = vectors.get((layer, place.name), nothing)
        tensors |= {f"{layer}.{place.name}.d": d, f"{layer}.{place.name}.b": b}
    columns, rows = max(site.width_in for _, site in acting), made.rows(spec, acting)
    tensors[f"{SHARED_PREFIX}a"] = factors["vera_A"][:, :columns].clone()
    tensors[f"{SHARED_PREFIX}b"] = factors["vera_B"][:rows].clone()
    return made, tensors


def write(
    record: AdapterRecord, modules: BackboneModules, what: str
) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """PEFT's config and weights; see `Method`.

    Raises:
        FileError: options that PEFT's VeRA does not have, or parts of a fused map that do not go together.
    """
    config, spec, tensors = record.config, modules.spec, record.tensors
    assert isinstance(config, VeraConfig)
    problems = gate_problems(config, "VeRA", what)
    if config.square:
        why = "its d and b are vectors"
        problems.append(Problem(f"{what}: PEFT's VeRA has no square=True", why=why, hint="format='adapterhub'"))
    weights: dict[str, dict[str, Tensor]] = {}
    rows = columns = 0
    for path, layer, sites, own in adapted_maps(record, modules):
        if problems:
            break
        faults = _fused_faults(record, path, spec.layers[layer], sites, own)
        problems += [Problem(f"{what}: {fault}", why=why) for fault, why in faults]
        scaling = torch.cat(
            [
                tensors[f"{layer}.{site}.b"] * config.scale
                if site in own
                else tensors[f"{layer}.{own[0]}.b"].new_zeros(spec.site(layer, site).width_out)
                for site in sites
            ]
        )
        weights[path] = {"vera_lambda_d": tensors[f"{layer}.{own[0]}.d"], "vera_lambda_b": scaling}
        rows, columns = max(rows, len(scaling)), max(columns, spec.site(layer, sites[0]).width_in)
    if problems:
        raise FileError(problems)
    a, b = tensors[f"{SHARED_PREFIX}a"], tensors[f"{SHARED_PREFIX}b"]
    unused = b.new_zeros(max(rows - len(b), 0), config.r)
    content = {
        "r": config.r,
        "target_modules": short_names(weights, modules.names),
        "vera_dropout": config.dropout,
        "d_initial": config.vera_d,
        "projection_prng_key": 0,
        "save_projection": True,
        "bias": "none",
        "init_weights": True,
        "fan_in_fan_out": modules.transposed,
    }
    return content, {**weights, "": {"vera_A": a[:, :columns], "vera_B": torch.cat([b, unused])[:rows]}}


def _option_problems(config: Mapping[str, Any], where: str) -> list[Problem]:
    found = []
    for option, least, default in (("r", 1, 256), ("projection_prng_key", 0, 0)):
        value = config.get(option, default)
        if not is_count(value, least):
            found.append(Problem(f"'{option}' is {value!r}, not a whole number of at least {least}", where=where))
    if config.get("bias", "none") != "none":
        found.append(Problem("trained biases of the backbone: not read", where=where, why="'bias' is not 'none'"))
    return found


def _config(
    config: Mapping[str, Any],
    vectors: Mapping[tuple[int, str], Any],
    rank: int,
    stacked: bool,
    spec: BackboneSpec,
    where: str,
) -> VeraConfig:
    """The config under which an adapter acts wherever the file has weights."""
    options = {
        **acting_options(vectors, spec),
        "r": rank,
        "alpha": rank,
        "dropout": config.get("vera_dropout", 0.0),
        "vera_d": config.get("d_initial", 0.1),
        "stacked": stacked,
    }
    try:
        return VeraConfig.make(options)
    except ComposeError as error:
        raise as_file_error(error, where) from error


def _factors(
    config: Mapping[str, Any], given: Mapping[str, Tensor], rank: int, sizes: Sequence[tuple[int, int]], where: str
) -> dict[str, Tensor]:
    """The random factors: those in the file, or where it holds none those that PEFT draws.

    Args:
        config: PEFT's config.
        given: what the file has of them.
        rank: the rank.
        sizes: of each map that is adapted, (width out, width in).
        where: the file that errors name.
    """
    widths = {"vera_A": (rank, max(width for _, width in sizes)), "vera_B": (max(width for width, _ in sizes), rank)}
    if not given and not config.get("save_projection", True):
        source = torch.Generator().manual_seed(config.get("projection_prng_key", 0))
        drawn = {}
        for name, shape in widths.items():  # in this order, from one generator, as PEFT does
            bound = math.sqrt(6 / shape[1])
            drawn[name] = torch.empty(shape, dtype=torch.float32).uniform_(-bound, bound, generator=source)
        return drawn
    problems = [Problem(f"'{name}' is missing", where=where) for name in FACTORS if name not in given]
    for name, tensor in given.items():
        least = widths[name]
        free = 1 if name == "vera_A" else 0  # it may be wider: made for other maps too
        if tensor.dim() != 2 or tensor.shape[1 - free] != rank or tensor.shape[free] < least[free]:
            what = f"'{name}' is of shape {tuple(tensor.shape)}, not {least}"
            problems.append(Problem(what, where=where))
    if problems:
        raise FileError(problems)
    return dict(given)


def _fused_faults(
    record: AdapterRecord, path: str, layer: LayerSpec, sites: Sequence[str], own: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """Why PEFT, to which a map is one, could not adapt its parts as they are; and why that is so.

    Args:
        record: the adapter.
        path: the map's.
        layer: its layer.
        sites: its parts.
        own: those of them that are adapted.
    """
    config = record.config
    assert isinstance(config, VeraConfig)
    starts = itertools.accumulate((layer.sites[site].width_out for site in sites), initial=0)
    start = dict(zip(sites, starts, strict=False))
    if any(config.first_row(layer, site) != start[site] for site in own):
        yield f"PEFT has no stacked=False for {path}", "to it this is one map, whose parts use rows of B in turn"
    first = record.tensors[f"{layer.index}.{own[0]}.d"]
    if any(not record.tensors[f"{layer.index}.{site}.d"].equal(first) for site in own):
        yield f"the parts of {path} have a d each", "to PEFT it is one map, with one d"
