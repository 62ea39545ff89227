"""Reading AdapterHub's adapters, fusions and heads into records: every key must have its place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from compose.errors import FileError, Problem, listing
from compose.heads.adapterhub import from_adapterhub_index
from compose.io.adapterhub import phm
from compose.io.adapterhub.configs import adapter_config, fusion_config, head_config
from compose.io.adapterhub.names import COLUMNS, FUSED, Names, names_of, ours
from compose.io.adapterhub.prefixes import read_prefixes
from compose.io.adapterhub.reft import plain_projections
from compose.io.adapterhub.table import KeyTable, Place
from compose.io.adapterhub.unions import Members
from compose.io.records import AdapterRecord, FusionRecord, HeadRecord, check_record_name, fusion_sites
from compose.io.view import View
from compose.io.weights import read_weights
from compose.methods.compacter.spec import CompacterConfig
from compose.methods.config import Config, Options
from compose.methods.linear.spec import LinearConfig
from compose.methods.prefix.spec import PrefixConfig
from compose.methods.tensors import SHARED_PREFIX
from compose.methods.union.spec import UnionConfig
from compose.specs import BackboneSpec

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", ("adapter.safetensors", "pytorch_adapter.bin")
FUSION_CONFIG = "adapter_fusion_config.json"
FUSION_WEIGHTS = ("model_adapter_fusion.safetensors", "pytorch_model_adapter_fusion.bin")
HEAD_CONFIG, HEAD_WEIGHTS = "head_config.json", ("model_head.safetensors", "pytorch_model_head.bin")

_KEPT = ("model_name", "model_class", "model_type", "version", "config_id", "type")
"""What is kept of a config file besides the config."""


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
    config = adapter_config(content, reader.keys, frozenset(tensors), where, subtract_projection)
    own_name = content.get("name")
    wanted = check_record_name(own_name if name is None else name, "adapter", where)
    head = None
    if with_head and folder.has(HEAD_CONFIG):
        head = read_head(folder, backbone, name)
    placed = _placed(tensors, reader, config, str(own_name), path)
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
    if not (config.query or config.key or config.value):
        # without matrices it makes a map of its own, and never uses it
        unused = (f".{own_name}.dense.weight", f".{own_name}.dense.bias")
        tensors = {key: tensor for key, tensor in tensors.items() if not key.endswith(unused)}
    placed = _place(tensors, reader, config, own_name, path)
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


def _open(folder: View, config_file: str, backbone: BackboneSpec) -> tuple[dict[str, Any], KeyTable, str]:
    """The config file, found to be for this backbone, and what reads the keys beside it."""
    where = str(folder.path / config_file)
    content = folder.manifest(config_file)
    table = KeyTable.of(backbone, where)
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
    return content, table, where


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


def _placed(tensors: Mapping[str, Tensor], reader: KeyTable, config: Config, name: str, path: str) -> dict[str, Tensor]:
    """An adapter's tensors by canonical name; see `_place`."""
    if isinstance(config, UnionConfig):
        members = Members(config, reader.backbone)
        placed: dict[str, Tensor] = {}
        for number, (member, own) in enumerate(zip(config.members, members.divided(tensors, reader), strict=True)):
            placed |= members.renamed(number, _placed(own, reader, member, name, path))
        return placed
    if isinstance(config, PrefixConfig):
        return read_prefixes(tensors, reader.backbone, config, name, path)
    placed = plain_projections(_place(tensors, reader, config, name, path), path)
    if isinstance(config, CompacterConfig):
        phm.check_shared(config, placed, path)
    return placed


def _place(tensors: Mapping[str, Tensor], reader: KeyTable, config: Options, name: str, path: str) -> dict[str, Tensor]:
    """Tensors by canonical name.

    Args:
        tensors: tensors by AdapterHub's keys.
        reader: reads the keys.
        config: the adapter's config, or the fusion's.
        name: what the file calls it.
        path: the file, for errors.
    """
    names = names_of(config)
    placed: dict[str, Tensor] = {}
    problems = []
    for key, tensor in tensors.items():
        place = reader.read(key)
        if isinstance(place, str):
            problems.append(Problem(f"tensor '{key}' has no place", where=path, why=place))
            continue
        of_fusion = place.kind == "adapter_fusion_layer" and place.kind in names
        if of_fusion and place.name != name and place.name.startswith(name):
            continue  # it saves every fusion whose name begins with this one's into the file
        fault = _fault(place, names, name)
        parameter = ours(place.parameter, names.get(place.kind, ()))
        if fault or parameter is None:
            why = fault or f"its config gives it no '{place.parameter}'"
            problems.append(Problem(f"tensor '{key}' has no place", where=path, why=why))
            continue
        if len(place.sites) > 1 and config.method not in FUSED:
            why = f"AdapterHub cannot compute {config.method} on a fused map, so that its weights mean nothing there"
            problems.append(Problem(f"tensor '{key}' has no place", where=path, why=why))
            continue
        for prefix, piece in _pieces(place, tensor, config):
            canonical = f"{prefix}{parameter}"
            piece = piece.flatten() if parameter in COLUMNS.get(place.kind, ()) else piece
            known = placed.setdefault(canonical, piece)
            if known is not piece and not (known.shape == piece.shape and known.equal(piece)):
                problems.append(Problem(f"tensor '{key}' contradicts another of the same weight", where=path))
        if len(place.sites) > 1 and tensor.shape[:1].numel() % max(1, len(_fused_sites(place, config))):
            problems.append(Problem(f"tensor '{key}' cannot be divided among its maps", where=path))
    if problems:
        raise FileError(problems)
    return placed


def _fault(place: Place, names: Names, name: str) -> str:
    if place.kind not in names:
        return f"it is one of '{place.kind}', the config asks for {listing(names)}"
    return "" if place.name == name else f"it belongs to '{place.name}', the config to '{name}'"


def _fused_sites(place: Place, config: Options) -> list[str]:
    """The sites of a fused map on which the adapter acts, in the order of its rows."""
    matrices = config.attn_matrices if isinstance(config, LinearConfig) else ()
    return [site for site in place.sites if site.rpartition(".")[2] in matrices]


def _pieces(place: Place, tensor: Tensor, config: Options) -> list[tuple[str, Tensor]]:
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
