"""An AdapterHub setup as a whole: its expression, and the adapters, fusions and heads in its folders."""

from __future__ import annotations

from compose.dsl import fuses, leaves, own_name
from compose.errors import FileError, Problem
from compose.io.adapterhub.read import FUSION_CONFIG, HEAD_CONFIG, read_adapter, read_fusion, read_head
from compose.io.adapterhub.setup import read_head_setup, read_setup
from compose.io.records import CompositionRecord, check_record_name
from compose.io.view import View
from compose.specs import BackboneSpec


def read_composition(folder: View, backbone: BackboneSpec) -> CompositionRecord:
    """A composition.

    Heads are those that the setup names, else those that lie beside the adapters. The format keeps fusions that
    are at the top or right below it; another's weights are missing, and the expression then says so when it is
    compiled.

    Args:
        folder: the folder.
        backbone: the backbone it is for.

    Raises:
        FileError: missing, damaged, or not supported; the faults of all its parts at once.
    """
    record = CompositionRecord(read_setup(folder))
    names = leaves(record.expression)
    heads = read_head_setup(folder)
    if heads is None:
        heads = tuple(name for name in names if folder.has(f"{name}/{HEAD_CONFIG}"))
    fusions = [str(own_name(fuse)) for fuse in fuses(record.expression)]
    problems: list[Problem] = []
    for name in names:
        try:
            record.adapters[name] = read_adapter(_inner(folder, name), backbone, name, with_head=False)
        except FileError as error:
            problems += error.problems
    for name in fusions:
        try:
            if folder.has(f"{name}/{FUSION_CONFIG}"):
                record.fusions[name] = read_fusion(_inner(folder, name), backbone, name)
        except FileError as error:
            problems += error.problems
    for name in heads:
        try:
            record.heads[name] = read_head(_inner(folder, name), backbone, name)
        except FileError as error:
            problems += error.problems
    if problems:
        raise FileError(problems)
    return record


def _inner(folder: View, name: str) -> View:
    """The folder of a part: one right inside, whatever a hostile setup says."""
    check_record_name(name, "head", str(folder.path))
    if not name.strip("."):
        raise FileError(f"{name!r} is not the name of a folder inside", where=str(folder.path))
    return View(folder.path / name)
