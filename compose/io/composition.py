"""A composition in one folder: `composition.json`, and a folder each for its adapters, fusions and heads."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from compose.dsl import from_json, to_json, to_text
from compose.errors import ComposeError, FileError, Problem
from compose.io.jsonfile import dump_json
from compose.io.manifests import VERSION, check_manifest
from compose.io.native import (
    Files,
    adapter_files,
    fusion_files,
    head_files,
    load_adapter,
    load_fusion,
    load_head,
)
from compose.io.records import CompositionRecord, as_file_error, check_record_name
from compose.io.store import commit, is_folder_name
from compose.io.view import FOLDERS, View

MANIFEST = "composition.json"

_RESERVED = re.compile(r"(?:con|prn|aux|nul|com\d|lpt\d)(?:\..*)?", re.IGNORECASE)
_LONGEST = 80


def save_composition(record: CompositionRecord, folder: str | Path) -> tuple[str, ...]:
    """Save a composition. The folder then holds all of the new version, or all of the old one.

    Heads are kept in folders of their own: a head that an adapter's record carries is not saved with it.

    Returns:
        Leftovers of a save that was cut short, which were cleared.

    Raises:
        FileError: the folder cannot be written, or a name in the record is not legal.
    """
    folder = Path(folder)
    names = {kind: folder_names(getattr(record, kind)) for kind in FOLDERS}
    files: Files = []
    for name, adapter in record.adapters.items():
        files += adapter_files(replace(adapter, head=None), f"adapters/{names['adapters'][name]}/")
    for name, fusion in record.fusions.items():
        files += fusion_files(fusion, f"fusions/{names['fusions'][name]}/")
    for name, head in record.heads.items():
        files += head_files(head, f"heads/{names['heads'][name]}/")
    manifest = {
        "kind": "composition",
        "version": VERSION,
        "text": to_text(record.expression),
        "expression": to_json(record.expression),
        "backbone": record.backbone,
        "meta": record.meta,
        **names,
    }
    files.append((MANIFEST, dump_json(manifest)))
    new = {name for name, _ in files}
    return commit(folder, files, [name for name in _files_of(folder) if name not in new])


def load_composition(folder: str | Path) -> CompositionRecord:
    """A composition as it was saved.

    Raises:
        FileError: missing, damaged, or of a newer format; the faults of all its parts at once.
    """
    where = str(Path(folder) / MANIFEST)
    manifest = View(folder).manifest(MANIFEST)
    check_manifest(manifest, "composition", where)
    try:
        record = CompositionRecord(from_json(manifest.get("expression")))
    except ComposeError as error:
        raise as_file_error(error, where) from error
    backbone, meta = manifest.get("backbone"), manifest.get("meta", {})
    if not isinstance(backbone, str | None) or not isinstance(meta, dict):
        raise FileError("'backbone' or 'meta' is not what it should be", where=where)
    record.backbone, record.meta = backbone, meta
    problems: list[Problem] = []
    for kind in FOLDERS:
        for name, inner in _names(manifest, kind, where).items():
            try:
                place = f"{kind}/{inner}/"
                if kind == "adapters":
                    record.adapters[name] = load_adapter(folder, name, with_head=False, inner=place)
                elif kind == "fusions":
                    record.fusions[name] = load_fusion(folder, name, inner=place)
                else:
                    record.heads[name] = load_head(folder, name, inner=place)
            except FileError as error:
                problems += error.problems
    if problems:
        raise FileError(problems)
    return record


def folder_names(names: Iterable[str]) -> dict[str, str]:
    """A folder name for each name: safe on all file systems, and no two alike even where case does not count.

    >>> folder_names(["sst-2", "a,b", "A,B", "..", "con"])
    {'..': '_..~', 'A,B': 'A+B', 'a,b': 'a+b~2', 'con': '_con', 'sst-2': 'sst-2'}
    """
    found: dict[str, str] = {}
    taken: set[str] = set()
    for name in sorted(names):  # so that the order of loading changes nothing
        safe = re.sub(r"[^A-Za-z0-9_.+-]", "_", name.replace(",", "+"))[:_LONGEST]
        if safe.startswith(".") or not safe or _RESERVED.fullmatch(safe):
            safe = f"_{safe}"
        if safe.endswith("."):
            safe = f"{safe}~"
        unique, number = safe, 2
        while unique.lower() in taken:
            unique, number = f"{safe}~{number}", number + 1
        taken.add(unique.lower())
        found[name] = unique
    return found


def _names(manifest: dict[str, Any], kind: str, where: str) -> dict[str, str]:
    names = manifest.get(kind)
    if not isinstance(names, dict) or not all(is_folder_name(inner) for inner in names.values()):
        raise FileError(f"'{kind}' is not a table of names and folders", where=where)
    for name in names:
        check_record_name(name, kind.removesuffix("s"), where)
    return names


def _files_of(folder: Path) -> list[str]:
    """The files of the version in a folder, by what its manifest says: a stranger's are not touched."""
    try:
        view = View(folder)
        manifest = view.manifest(MANIFEST)
        names = {kind: _names(manifest, kind, MANIFEST) for kind in FOLDERS}
    except FileError:  # nothing there, or nothing that could be told
        return []
    return [
        f"{kind}/{inner}/{kind.removesuffix('s')}.{ending}"
        for kind in FOLDERS
        for inner in names[kind].values()
        for ending in ("safetensors", "json")
    ]
