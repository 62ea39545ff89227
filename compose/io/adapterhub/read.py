"""Reading AdapterHub's adapters, fusions and heads into records: every key must have its place."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from compose.errors import FileError, Problem, listing
from compose.heads.adapterhub import from_adapterhub_index
from compose.io.adapterhub import phm
from compose.io.adapterhub.configs import adapter_config, fusion_config, head_config
from compose.io.adapterhub.keys import KEYS, KeyReader, Kind, Place
from compose.io.adapterhub.prefixes import read_prefixes
from compose.io.adapterhub.reft import plain_projections, reft_rows
from compose.io.records import AdapterRecord, FusionRecord, HeadRecord, check_record_name, fusion_sites
from compose.io.store import View
from compose.io.weights import read_weights
from compose.methods.compacter.spec import CompacterConfig
from compose.methods.config import Config
from compose.methods.linear.spec import LinearConfig
from compose.methods.prefix.spec import PrefixConfig
from compose.methods.prompt_tuning.spec import PromptTuningConfig
from compose.methods.reft.spec import ReftConfig
from compose.methods.tensors import SHARED_PREFIX
from compose.specs import BackboneSpec

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", ("adapter.safetensors", "pytorch_adapter.bin")
FUSION_CONFIG = "adapter_fusion_config.json"
FUSION_WEIGHTS = ("model_adapter_fusion.safetensors", "pytorch_model_adapter_fusion.bin")
HEAD_CONFIG, HEAD_WEIGHTS = "head_config.json", ("model_head.safetensors", "pytorch_model_head.bin")

_KEPT = ("model_name", "model_class", "model_type", "version", "config_id", "type")
"""What is kept of a config file besides the config."""

Rows = tuple[tuple[str, str], ...]
"""Patterns of its names of weights, each with ours."""

_PLAIN: Rows = (
    (r"adapter_norm_before\.(weight|bias)", r"norm_before.\1"),
    (r"adapter_up\.(weight|bias)", r"up.\1"),
    (r"adapter_norm_after\.(weight|bias)", r"norm_after.\1"),
    (r"non_linearity\.f\.(\w+)", r"activation.\1"),
    (r"(scaling)", r"\1"),
    (r"(gate\.(?:weight|bias))", r"\1"),
)
# `adapter_down` is a sequence: the LayerNorm if there is one, the linear map, the activation.
_WITHOUT_NORM = (
    (r"adapter_down\.0\.(weight|bias)", r"down.\1"),
    (r"adapter_down\.1\.f\.(\w+)", r"activation.\1"),
)
_WITH_NORM = (
    (r"adapter_down\.0\.(weight|bias)", r"norm_before.\1"),
    (r"adapter_down\.1\.(weight|bias)", r"down.\1"),
    (r"adapter_down\.2\.f\.(\w+)", r"activation.\1"),
)
_GATE = (r"(gate\.(?:weight|bias))", r"\1")
_LORA = ((r"lora_A", "a"), (r"lora_B", "b"), _GATE)
_VERA = ((r"vera_D", "d"), (r"vera_B", "b"), _GATE)
_MAGNITUDE = (r"m\.weight", "magnitude")
_LINEAR: Mapping[str, Rows] = {
    "lora": _LORA,
    "ia3": ((r"lora_B", "scaling"), _GATE),
    "dora": (_MAGNITUDE, *((theirs, f"update.{ours}") for theirs, ours in _LORA)),
    "vera": _VERA,
    "dvora": (_MAGNITUDE, *((theirs, f"update.{ours}") for theirs, ours in _VERA)),
    "mtl_lora": (*_LORA, (r"(weights)", r"\1"), (r"task_specific\.values", "task")),
}
"""Names of weights at linear maps, by method."""

_VECTORS = frozenset({"scaling", "magnitude"})
"""What is a vector here, and there a matrix of one column."""

_FUSED = frozenset({"lora", "ia3"})
"""Methods that it can compute on a fused map."""

_SHARED: Mapping[str, Rows] = {
    **dict.fromkeys(("vera", "dvora"), ((r"lora_A", "a"), (r"lora_B", "b"))),
    "compacter": phm.SHARED,
}
"""Names of what an adapter's parts share, by method."""

# The first of a coupling block's networks reads the second half of the states, and changes the first.
_INVERTIBLE = tuple(
    (rf"{theirs}\.{index}\.(\w+)", rf"{ours}.{module}.\1")
    for theirs, ours in (("F", "first"), ("G", "second"), ("s2", "first"), ("s1", "second"))
    for index, module in (("0", "down"), (r"1\.f", "activation"), ("2", "up"))
)
_PROMPT = ((r"prompt_embedding\.weight", "weight"),)
_FUSION = ((r"((?:query|key)\.(?:weight|bias)|value\.weight)", r"\1"),)


def read_adapter(
    folder: View,
    backbone: BackboneSpec,
    name: str | None = None,
    with_head: bool = True,
    subtract_projection: bool | None = None,
) -> AdapterRecord:
    """An adapter.

    Args:
        folder: the folder.
        backbone: the backbone it is for: it tells what the keys mean.
        name: what to call it; as the file does by default.
        with_head: read the head in the folder too, if there is one.
        subtract_projection: True for NoReFT, False for DiReFT: their files are the same, so it has to be said.

    Raises:
        FileError: damaged, for another backbone, of a method or with an option that is not supported, or
            with a tensor that has no place.
    """
    content, reader, where = _open(folder, ADAPTER_CONFIG, backbone)
    tensors, path = _weights(folder, ADAPTER_WEIGHTS)
    parts = frozenset(part for key in tensors for part in key.split("."))
    config = adapter_config(content, reader.keys, parts, where, subtract_projection)
    own_name = content.get("name")
    wanted = check_record_name(own_name if name is None else name, "adapter", where)
    head = None
    if with_head and folder.has(HEAD_CONFIG):
        head = read_head(folder, backbone, name)
    if isinstance(config, PrefixConfig):
        placed = read_prefixes(tensors, backbone, config, str(own_name), path)
    else:
        placed = plain_projections(_place(tensors, reader, config, str(own_name), path), path)
    if isinstance(config, CompacterConfig):
        phm.check_shared(config, placed, path)
    return AdapterRecord(wanted, config, placed, head=head, meta=_meta(content))


def read_fusion(folder: View, backbone: BackboneSpec, name: str | None = None) -> FusionRecord:
    """A fusion; see `read_adapter`. Its children's names are the file's."""
    content, reader, where = _open(folder, FUSION_CONFIG, backbone)
    config = fusion_config(content, where)
    own_name = str(content.get("name"))
    children = content.get("adapter_names", own_name.split(","))
    if not isinstance(children, list) or not children or not all(isinstance(child, str) for child in children):
        raise FileError("'adapter_names' is not a list of names", where=where)
    wanted = check_record_name(own_name if name is None else name, "fusion", where)
    tensors, path = _weights(folder, FUSION_WEIGHTS)
    placed = _place(tensors, reader, None, own_name, path)
    if config.temperature:
        # The file never says how far it has fallen; after a thousand steps it is 1 for good.
        placed |= {f"{layer}.{site}.temperature": torch.tensor(1.0) for layer, site in fusion_sites(placed)}
    return FusionRecord(wanted, config, tuple(children), placed, meta=_meta(content))


def read_head(folder: View, backbone: BackboneSpec, name: str | None = None) -> HeadRecord:
    """A head; see `read_adapter`."""
    content, _, where = _open(folder, HEAD_CONFIG, backbone)
    config = head_config(content, backbone.architecture, where)
    own_name = str(content.get("name"))
    wanted = check_record_name(own_name if name is None else name, "head", where)
    tensors, path = _weights(folder, HEAD_WEIGHTS)
    modules = from_adapterhub_index(config)
    placed: dict[str, Tensor] = {}
    problems = []
    for key, tensor in tensors.items():
        rest = key.removeprefix(f"heads.{own_name}.")
        index, _, parameter = rest.partition(".")
        if rest != key and index in modules and parameter in ("weight", "bias"):
            placed[f"{modules[index]}.{parameter}"] = tensor
        elif rest == key and key.startswith(f"heads.{own_name}"):
            continue  # it saves every head whose name begins with this one's into the file
        else:
            why = f"heads of its config have {', '.join(f'heads.{own_name}.{each}.*' for each in modules)}"
            problems.append(Problem(f"tensor '{key}' has no place", where=path, why=why))
    if problems:
        raise FileError(problems)
    return HeadRecord(wanted, config, placed, meta=_meta(content))


def _open(folder: View, config_file: str, backbone: BackboneSpec) -> tuple[dict[str, Any], KeyReader, str]:
    """The config file, found to be for this backbone, and what reads the keys beside it."""
    where = str(folder.path / config_file)
    content = folder.manifest(config_file)
    keys = KEYS.get(backbone.architecture)
    if keys is None:
        raise FileError(
            f"AdapterHub's folders cannot be read for backbones of architecture '{backbone.architecture}'",
            where=where,
            got=backbone.architecture,
            legal=tuple(KEYS),
        )
    problems = []
    architecture = content.get("model_type")
    if architecture is not None and architecture != backbone.architecture:
        problems.append(
            Problem(
                f"made for architecture '{architecture}', this backbone is '{backbone.architecture}'",
                where=where,
            )
        )
    size = content.get("hidden_size")
    if size is not None and size != backbone.hidden_size:
        problems.append(
            Problem(f"made for states of width {size}, this backbone's have {backbone.hidden_size}", where=where)
        )
    if problems:
        raise FileError(problems)
    return content, KeyReader(keys, backbone), where


def _weights(folder: View, names: tuple[str, ...]) -> tuple[dict[str, Tensor], str]:
    for name in names:
        if folder.has(name):
            path = folder.file(name)
            return read_weights(path), str(path)
    raise FileError(f"the weights are missing: neither {' nor '.join(names)} is there", where=str(folder.path))


def _meta(content: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "format": "adapterhub",
        **{key: content[key] for key in _KEPT if isinstance(content.get(key), str)},
    }


def _place(
    tensors: Mapping[str, Tensor], reader: KeyReader, config: Config | None, name: str, path: str
) -> dict[str, Tensor]:
    """Tensors by canonical name.

    Args:
        tensors: tensors by AdapterHub's keys.
        reader: reads the keys.
        config: the adapter's config, None for a fusion.
        name: what the file calls it.
        path: the file, for errors.
    """
    grammar = _grammar(config)
    placed: dict[str, Tensor] = {}
    problems = []
    for key, tensor in tensors.items():
        place = reader.read(key)
        if isinstance(place, str):
            problems.append(Problem(f"tensor '{key}' has no place", where=path, why=place))
            continue
        if (
            config is None
            and place.kind == "adapter_fusion_layer"
            and place.name != name
            and place.name.startswith(name)
        ):
            continue  # it saves every fusion whose name begins with this one's into the file
        fault = _fault(place, grammar, name)
        parameter = _parameter(place.parameter, grammar.get(place.kind, ()))
        if fault or parameter is None:
            why = fault or f"its config gives it no '{place.parameter}'"
            problems.append(Problem(f"tensor '{key}' has no place", where=path, why=why))
            continue
        if len(place.sites) > 1 and config is not None and config.method not in _FUSED:
            why = f"AdapterHub cannot compute {config.method} on a fused map, so that its weights mean nothing there"
            problems.append(Problem(f"tensor '{key}' has no place", where=path, why=why))
            continue
        for prefix, piece in _pieces(place, tensor, config):
            canonical = f"{prefix}{parameter}"
            piece = piece.flatten() if parameter in _VECTORS else piece
            known = placed.setdefault(canonical, piece)
            if known is not piece and not (known.shape == piece.shape and known.equal(piece)):
                problems.append(Problem(f"tensor '{key}' contradicts another of the same weight", where=path))
        if len(place.sites) > 1 and tensor.shape[:1].numel() % max(1, len(_fused_sites(place, config))):
            problems.append(Problem(f"tensor '{key}' cannot be divided among its maps", where=path))
    if problems:
        raise FileError(problems)
    return placed


def _grammar(config: Config | None) -> Mapping[Kind, Rows]:
    """The kinds of weights that a config has, and how their names read."""
    if config is None:
        return {"adapter_fusion_layer": _FUSION}
    shared: Mapping[Kind, Rows] = {"shared_parameters": _SHARED[config.method]} if config.method in _SHARED else {}
    if isinstance(config, LinearConfig):
        return {"loras": _LINEAR[config.method], **shared}
    if isinstance(config, ReftConfig):
        return {"refts": reft_rows(config)}
    if isinstance(config, PromptTuningConfig):
        return {"prompt_tunings": _PROMPT}
    norm = bool(getattr(config, "ln_before", False))
    rows: Rows = (*_PLAIN, *(_WITH_NORM if norm else _WITHOUT_NORM))
    if isinstance(config, CompacterConfig):
        rows += phm.rows(norm)
    inverted: Mapping[Kind, Rows] = {}
    if getattr(config, "inv_adapter", None) is not None:
        inverted = {"invertible_adapters": _INVERTIBLE}
    return {"adapters": rows, **inverted, **shared}


def _fault(place: Place, kinds: Collection[Kind], name: str) -> str:
    if place.kind not in kinds:
        return f"it is one of '{place.kind}', the config asks for {listing(kinds)}"
    return "" if place.name == name else f"it belongs to '{place.name}', the config to '{name}'"


def _parameter(name: str, rows: Rows) -> str | None:
    for pattern, ours in rows:
        match = re.fullmatch(pattern, name)
        if match:
            return match.expand(ours)
    return None


def _fused_sites(place: Place, config: Config | None) -> list[str]:
    """The sites of a fused map on which the adapter acts, in the order of its rows."""
    matrices = config.attn_matrices if isinstance(config, LinearConfig) else ()
    return [site for site in place.sites if site.rpartition(".")[2] in matrices]


def _pieces(place: Place, tensor: Tensor, config: Config | None) -> list[tuple[str, Tensor]]:
    """The tensor with what stands before its name, its site, or its equal slices at the sites of a fused map."""
    if not place.sites:
        return [(SHARED_PREFIX, tensor)]
    if len(place.sites) == 1:
        return [(f"{place.layer}.{place.sites[0]}.", tensor)]
    sites = _fused_sites(place, config)
    if not sites or tensor.dim() == 0:
        return []
    size = tensor.shape[0] // len(sites)
    slices = (tensor[index * size : (index + 1) * size].clone() for index in range(len(sites)))
    return [(f"{place.layer}.{site}.", piece) for site, piece in zip(sites, slices, strict=True)]
