"""Our records as AdapterHub's files: the same tables as in reading, the other way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from compose.dsl import Fuse, fuses, own_name, to_text
from compose.errors import ComposeError, FileError, Problem, listing
from compose.heads.adapterhub import from_adapterhub_index, to_adapterhub_config
from compose.heads.spec import VocabularyConfig
from compose.io.adapterhub.names import COLUMNS, FUSED, names_of, theirs
from compose.io.adapterhub.options import VERSION, adapterhub_options
from compose.io.adapterhub.prefixes import prefix_tensors
from compose.io.adapterhub.read import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    FUSION_CONFIG,
    FUSION_WEIGHTS,
    HEAD_CONFIG,
    HEAD_WEIGHTS,
)
from compose.io.adapterhub.reft import parametrized_projections
from compose.io.adapterhub.setup import SETUP, write_setup
from compose.io.adapterhub.table import KeyTable
from compose.io.adapterhub.unions import Members
from compose.io.export import Files
from compose.io.jsonfile import dump_json
from compose.io.modules import BackboneModules
from compose.io.records import AdapterRecord, CompositionRecord, FusionRecord, HeadRecord, as_file_error, fusion_sites
from compose.io.weights import dump_weights
from compose.methods.bottleneck.spec import SITES
from compose.methods.config import Options
from compose.methods.fusion.spec import FusionConfig
from compose.methods.prefix.spec import PrefixConfig
from compose.methods.reft.spec import ReftConfig
from compose.methods.tensors import SHARED_PREFIX
from compose.methods.union.spec import UnionConfig
from compose.methods.vera.spec import VeraConfig


def adapter_files(record: AdapterRecord, modules: BackboneModules) -> Files:
    """The files of an adapter, and of the head that its record carries; the config comes last.

    Args:
        record: the adapter.
        modules: the backbone it is for.

    Raises:
        FileError: something that AdapterHub's format cannot say; all of it at once.
    """
    what = f"adapter '{record.name}'"
    table = KeyTable.of(modules.spec, what, modules.names)
    config = adapterhub_options(record.config, table.keys, modules.spec, what)
    tensors = _adapter_tensors(record, table, what)
    head = head_files(record.head, modules) if record.head else []
    content = _content(table, record.name, config, record.meta)
    return [*head, *_files(ADAPTER_WEIGHTS, tensors, ADAPTER_CONFIG, content)]


def fusion_files(record: FusionRecord, modules: BackboneModules) -> Files:
    """The files of a fusion; see `adapter_files`."""
    what = f"fusion '{record.name}'"
    table = KeyTable.of(modules.spec, what)
    if not isinstance(record.config, FusionConfig):
        raise FileError(f"{what}: AdapterHub's format has no '{record.config.method}'", hint="the native format")
    warm = [name for name, tensor in record.tensors.items() if name.endswith(".temperature") and tensor.item() != 1.0]
    if warm:
        raise FileError(
            f"{what}: AdapterHub's format cannot say how far its temperature has fallen",
            why=f"at {len(warm)} sites it is not yet 1",
            hint="the native format, or more training steps",
        )
    # at 1 for good, a temperature is none
    tensors = {name: tensor for name, tensor in record.tensors.items() if not name.endswith(".temperature")}
    config = replace(record.config, temperature=False)
    keyed = _keyed(tensors, fusion_sites(tensors), table, config, record.name, what)
    names = record.name.split(",")
    children = names if set(names) <= set(record.children) else list(record.children)
    content = {**_content(table, record.name, config.to_dict(), record.meta), "adapter_names": children}
    return _files(FUSION_WEIGHTS, keyed, FUSION_CONFIG, content)


def head_files(record: HeadRecord, modules: BackboneModules) -> Files:
    """The files of a head; see `adapter_files`."""
    what = f"head '{record.name}'"
    table = KeyTable.of(modules.spec, what)
    try:
        config = to_adapterhub_config(record.config, modules.spec)
    except ComposeError as error:
        raise as_file_error(error, what) from error
    own = tensors_of(record, modules)
    vocabulary = isinstance(record.config, VocabularyConfig)
    if vocabulary and modules.tied is not None and not _same(own["out.weight"], modules.tied):
        raise FileError(
            f"{what}: AdapterHub ties it to this backbone's input embeddings, but its vocabulary matrix is another",
            why="loading it there would overwrite the embeddings",
            hint="the native format",
        )
    index = {module: number for number, module in from_adapterhub_index(record.config).items()}
    tensors = {}
    for name, tensor in own.items():
        module, _, parameter = name.rpartition(".")
        tensors[f"heads.{record.name}.{index[module]}.{parameter}"] = tensor
    return _files(HEAD_WEIGHTS, tensors, HEAD_CONFIG, _content(table, record.name, config, record.meta))


def composition_files(record: CompositionRecord, modules: BackboneModules) -> Files:
    """The files of a composition: a folder for each adapter, fusion and head, and the setup; see `adapter_files`.

    An adapter's folder is its head's too, where both have one name.
    """
    problems = [problem for fuse in fuses(record.expression) if (problem := _unlike(fuse, record))]
    files: Files = []
    places: list[tuple[str, Callable[[], Files]]] = []
    places += [
        (name, partial(adapter_files, replace(each, head=None), modules)) for name, each in record.adapters.items()
    ]
    places += [(name, partial(fusion_files, each, modules)) for name, each in record.fusions.items()]
    places += [(name, partial(head_files, each, modules)) for name, each in record.heads.items()]
    setup: dict[str, Any] = {}
    try:
        setup = write_setup(record.expression)
    except FileError as error:
        problems += error.problems
    for name, write in places:
        try:
            files += [(f"{name}/{file}", data) for file, data in write()]
        except FileError as error:
            problems += error.problems
    missing = {own_name(fuse) for fuse in fuses(record.expression)} - set(record.fusions)
    problems += [Problem(f"the fusion '{name}' has no weights") for name in sorted(map(str, missing))]
    if problems:
        raise FileError(problems)
    content = {"adapter_setup": setup, "head_setup": list(record.heads) or None, "version": VERSION}
    return [*files, (SETUP, dump_json(content))]


NO_UNION = "{}: AdapterHub has no union of two such members"


def _adapter_tensors(record: AdapterRecord, table: KeyTable, what: str) -> dict[str, Tensor]:
    """An adapter's tensors by AdapterHub's keys."""
    config, backbone = record.config, table.backbone
    if isinstance(config, UnionConfig):
        members = Members(config, backbone)
        keyed: dict[str, Tensor] = {}
        written: list[dict[str, Tensor]] = []
        for number, member in enumerate(config.members):
            own = replace(record, config=member, tensors=members.own(number, record.tensors))
            written.append(_adapter_tensors(own, table, what))
            if clash := sorted(written[-1].keys() & keyed.keys()):
                raise FileError(NO_UNION.format(what), why=f"both would be '{clash[0]}'", hint="the native format")
            keyed |= written[-1]
        for own_keys, read in zip(written, members.divided(keyed, table), strict=True):
            if lost := sorted(own_keys.keys() - read.keys()):
                why = f"nothing in the file would tell whose '{lost[0]}' is"
                raise FileError(NO_UNION.format(what), why=why, hint="the native format")
        return keyed
    if isinstance(config, PrefixConfig):
        prefixes = prefix_tensors(record.tensors, backbone, config, record.name)
        return {f"{table.keys.prefixes[0]}{key}": tensor for key, tensor in prefixes.items()}
    tensors = record.tensors
    if isinstance(config, ReftConfig) and config.orthogonality:
        tensors = parametrized_projections(tensors)
    sites = [(part.layer, part.site) for part in config.describe(record.name, backbone).parts]
    if isinstance(config, VeraConfig):
        _check_widths(sites, table, what)
    return _keyed(tensors, sites, table, config, record.name, what)


def _check_widths(sites: Iterable[tuple[int, str]], table: KeyTable, what: str) -> None:
    """AdapterHub's VeRA takes the shared factors as they are: all its maps must be of one shape."""
    found = [table.backbone.site(layer, site) for layer, site in sites]
    shapes = sorted({(site.width_in, site.width_out) for site in found})
    if len(shapes) > 1:
        raise FileError(
            f"{what}: AdapterHub cannot compute VeRA on maps of different widths",
            why=f"its maps are {' and '.join(f'{read} to {made}' for read, made in shapes)} wide",
            hint="the native format",
        )


def _unlike(fuse: Fuse, record: CompositionRecord) -> Problem | None:
    """What is wrong with the adapters that a Fuse weighs: AdapterHub's must act at the same sub-layers."""
    names = [name for name in map(own_name, fuse.children) if name in record.adapters]
    configs = [record.adapters[name].config.to_dict() for name in names]
    flags = [option for option, _ in SITES if len({config.get(option) for config in configs}) > 1]
    if not flags:
        return None
    return Problem(
        f"AdapterHub fuses no adapters that differ in {' and '.join(flags)}",
        where=to_text(fuse),
        hint="the native format",
    )


def tensors_of(record: HeadRecord, modules: BackboneModules) -> dict[str, Tensor]:
    """A head's tensors, the matrix of a tied map to the vocabulary among them, as AdapterHub's files hold it."""
    if not isinstance(record.config, VocabularyConfig) or not record.config.tied:
        return dict(record.tensors)
    assert modules.embeddings is not None, "there is no head tied to embeddings that there are not"
    kept = next(iter(record.tensors.values()), modules.embeddings)
    return {**record.tensors, "out.weight": modules.embeddings.detach().to(kept)}


def _same(own: Tensor, tied: Tensor) -> bool:
    return own.shape == tied.shape and torch.equal(own, tied.detach().to(own))


def _files(weights: tuple[str, str], tensors: Mapping[str, Tensor], config: str, content: Mapping[str, Any]) -> Files:
    return [(weights[0], dump_weights(tensors)), (config, dump_json(content))]


def _content(table: KeyTable, name: str, config: Mapping[str, Any], meta: Mapping[str, Any]) -> dict[str, Any]:
    if "." in name:
        raise FileError(
            f"AdapterHub's keys cannot hold the name '{name}'",
            why="a dot parts the names of modules there",
            hint="another name",
        )
    return {
        "config": dict(config),
        "hidden_size": table.backbone.hidden_size,
        "model_class": table.keys.model_class,
        "model_name": meta.get("model_name"),
        "model_type": table.backbone.architecture,
        "name": name,
        "version": VERSION,
    }


def _keyed(
    tensors: Mapping[str, Tensor],
    sites: Iterable[tuple[int, str]],
    table: KeyTable,
    config: Options,
    name: str,
    what: str,
) -> dict[str, Tensor]:
    """Tensors by AdapterHub's keys.

    Args:
        tensors: by canonical name.
        sites: the (layer, site) pairs that they belong to.
        table: the keys.
        config: the adapter's config, or the fusion's.
        name: the adapter's name, or the fusion's.
        what: what errors call it.
    """
    names = names_of(config)
    problems: list[Problem] = []
    homes = {f"{layer}.{site}.": (site, table.home(layer, site, names)) for layer, site in sites}
    homes[SHARED_PREFIX] = ("", table.shared)
    shared: dict[str, dict[str, Tensor]] = {}
    orders: dict[str, tuple[str, ...]] = {}
    left = dict(tensors)
    for start, (site, home) in homes.items():
        own = {key.removeprefix(start): left.pop(key) for key in list(left) if key.startswith(start)}
        why = ""
        if home is None:
            why = f"AdapterHub's format has no {listing(names)} at '{site}'"
        elif len(home.sites) > 1 and config.method not in FUSED:
            why = f"AdapterHub cannot compute {config.method} on a fused map"
        if home is None or why:
            problems.append(Problem(f"{what}: {why}", where=start[:-1], hint="the native format"))
            continue
        for parameter, tensor in own.items():
            found = theirs(parameter, names.get(home.kind, ()))
            if not found:
                problems.append(Problem(f"{what}: AdapterHub's format has no '{parameter}'", where=start[:-1]))
            for each in found:
                key = f"{home.path}{home.kind}.{name}.{each}"
                column = parameter in COLUMNS.get(home.kind, ())
                shared.setdefault(key, {})[site] = tensor.unsqueeze(1) if column else tensor
                orders[key] = home.sites
    problems += [Problem(f"{what}: the weight '{key}' is at no site of its own") for key in left]
    if problems:
        raise FileError(problems)
    return {key: _joined(pieces, orders[key]) for key, pieces in shared.items()}


def _joined(pieces: Mapping[str, Tensor], order: tuple[str, ...]) -> Tensor:
    """The tensor of a fused map: those of its sites, one below the other."""
    found = [pieces[site] for site in order if site in pieces]
    return found[0] if len(found) == 1 else torch.cat(found)
