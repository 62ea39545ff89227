"""The native format: `adapter.safetensors` with `adapter.json`, and likewise fusions and heads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from compose.errors import FileError, Problem
from compose.io.fingerprint import Fingerprint
from compose.io.manifests import (
    VERSION,
    check_keys,
    check_manifest,
    fusion_config,
    head_config,
    method_config,
    object_in,
)
from compose.io.records import AdapterRecord, FusionRecord, HeadRecord, check_record_name
from compose.io.sparse import packed, unpacked
from compose.io.store import commit, pair_files, read_pair
from compose.io.view import View

Files = list[tuple[str, bytes]]


def save_adapter(record: AdapterRecord, folder: str | Path) -> tuple[str, ...]:
    """Save an adapter, with its head where the record has one: all of it, or the folder is as before.

    Returns:
        Leftovers of a save that was cut short, which were cleared.

    Raises:
        FileError: the folder cannot be written, or a name in the record is not legal.
    """
    folder = Path(folder)
    removed = () if record.head else _heads_of(folder)
    return commit(folder, adapter_files(record), removed)


def save_fusion(record: FusionRecord, folder: str | Path) -> tuple[str, ...]:
    """Save a fusion; see `save_adapter`."""
    return commit(folder, fusion_files(record))


def save_head(record: HeadRecord, folder: str | Path) -> tuple[str, ...]:
    """Save a head; see `save_adapter`. An adapter may lie in the same folder."""
    return commit(folder, head_files(record))


def adapter_files(record: AdapterRecord, inner: str = "") -> Files:
    """The files of an adapter, the manifest last.

    Args:
        record: the adapter.
        inner: the folder in front of the names, with its `/`.
    """
    manifest = {
        **_common(record.name, "adapter", record.fingerprint, record.meta),
        "method": record.config.method,
        "config": record.config.to_dict(),
        "expression": record.expression,
        "head": record.head.name if record.head else None,
    }
    tensors, shapes = packed(record.tensors, record.masks)
    if shapes:
        manifest["sparse"] = shapes
    head = head_files(record.head, inner) if record.head else []
    return [*head, *pair_files(f"{inner}adapter", tensors, manifest)]


def fusion_files(record: FusionRecord, inner: str = "") -> Files:
    """The files of a fusion; see `adapter_files`."""
    manifest = {
        **_common(record.name, "fusion", record.fingerprint, record.meta),
        "method": record.config.method,
        "config": record.config.to_dict(),
        "children": list(record.children),
    }
    return pair_files(f"{inner}fusion", record.tensors, manifest)


def head_files(record: HeadRecord, inner: str = "") -> Files:
    """The files of a head; see `adapter_files`."""
    manifest = {
        **_common(record.name, "head", record.fingerprint, record.meta),
        "config": record.config.to_dict(),
    }
    return pair_files(f"{inner}head", record.tensors, manifest)


def load_adapter(folder: str | Path, name: str | None = None, with_head: bool = True, inner: str = "") -> AdapterRecord:
    """An adapter as it was saved.

    Args:
        folder: the folder.
        name: what to call it; as it was saved by default. Its head, if it bore the same name, goes with it.
        with_head: read its head too, if it has one.
        inner: a folder inside, with its `/`.

    Raises:
        FileError: missing, damaged, or of a newer format.
    """
    manifest, tensors, where = _read(folder, f"{inner}adapter", "adapter")
    tensors, masks = unpacked(tensors, manifest.get("sparse"), where)
    _check_tensor_names(tensors, where)
    config = method_config(manifest, where)
    own_name = check_record_name(manifest.get("name"), "adapter", where)
    wanted = own_name if name is None else check_record_name(name, "adapter", where)
    named = manifest.get("head")
    if named is not None:
        check_record_name(named, "head", where)
    head = None
    if with_head and named is not None:
        head = load_head(folder, inner=inner)
        if head.name == own_name:
            head.name = wanted
    expression = manifest.get("expression")
    if expression is not None and not isinstance(expression, str):
        raise FileError("'expression' is not a text", where=where)
    return AdapterRecord(
        wanted, config, tensors, head, _fingerprint(manifest, where), _meta(manifest, where), expression, masks
    )


def load_fusion(folder: str | Path, name: str | None = None, inner: str = "") -> FusionRecord:
    """A fusion as it was saved; see `load_adapter`."""
    manifest, tensors, where = _read(folder, f"{inner}fusion", "fusion")
    _check_tensor_names(tensors, where)
    children = manifest.get("children")
    if not isinstance(children, list) or not all(isinstance(child, str) for child in children):
        raise FileError("'children' is not a list of names", where=where)
    config = fusion_config(manifest, where)
    wanted = check_record_name(manifest.get("name") if name is None else name, "fusion", where)
    return FusionRecord(wanted, config, tuple(children), tensors, _fingerprint(manifest, where), _meta(manifest, where))


def load_head(folder: str | Path, name: str | None = None, inner: str = "") -> HeadRecord:
    """A head as it was saved; see `load_adapter`."""
    manifest, tensors, where = _read(folder, f"{inner}head", "head")
    config = head_config(manifest, where)
    wanted = check_record_name(manifest.get("name") if name is None else name, "head", where)
    return HeadRecord(wanted, config, tensors, _fingerprint(manifest, where), _meta(manifest, where))


def _check_tensor_names(tensors: Mapping[str, Tensor], where: str) -> None:
    """Refuse names that are not a number with two parts after it (-1 for the embeddings), or `shared` with one."""
    pattern = re.compile(r"(?:-1\.embed|\d{1,6}\.\w+)(\.\w+){1,11}|shared(\.\w+){1,12}")
    problems = [
        Problem(f"tensor '{name[:200]}' is not named after a layer, a site and a weight", where=where)
        for name in tensors
        if not pattern.fullmatch(name)
    ]
    if problems:
        raise FileError(problems)


def _common(name: str, kind: str, fingerprint: Fingerprint | None, meta: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": check_record_name(name, kind, f"the {kind} to save"),
        "kind": kind,
        "version": VERSION,
        "fingerprint": fingerprint.to_json() if fingerprint else None,
        "meta": dict(meta),
    }


def _read(folder: str | Path, stem: str, kind: str) -> tuple[dict[str, Any], dict[str, Tensor], str]:
    manifest, tensors = read_pair(folder, stem)
    where = str(Path(folder) / f"{stem}.json")
    check_manifest(manifest, kind, where)
    check_keys(manifest, kind, where)
    return manifest, tensors, where


def _heads_of(folder: Path) -> tuple[str, ...]:
    """The files of the head that the adapter in a folder has, to be removed if its new version has none."""
    try:
        has_head = View(folder).manifest("adapter.json").get("head") is not None
    except FileError:  # nothing there, or nothing that could be told
        return ()
    return ("head.safetensors", "head.json") if has_head else ()


def _meta(manifest: Mapping[str, Any], where: str) -> dict[str, Any]:
    return object_in({"meta": {}, **manifest}, "meta", where)


def _fingerprint(manifest: Mapping[str, Any], where: str) -> Fingerprint | None:
    content = manifest.get("fingerprint")
    return None if content is None else Fingerprint.from_json(content, where)
