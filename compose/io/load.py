"""Reading a folder whoever wrote it, and refusing what was made for another backbone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from compose.errors import FileError, Problem
from compose.io import adapterhub, composition, native, peft
from compose.io.detect import expect
from compose.io.fingerprint import Fingerprint
from compose.io.modules import BackboneModules
from compose.io.records import AdapterRecord, CompositionRecord, FusionRecord, HeadRecord
from compose.specs import BackboneSpec


def read_adapter(
    folder: str | Path,
    backbone: BackboneSpec,
    name: str | None = None,
    with_head: bool = True,
    fingerprint: Fingerprint | None = None,
    allow_backbone: bool = False,
    subtract_projection: bool | None = None,
    modules: BackboneModules | None = None,
) -> AdapterRecord:
    """An adapter from a folder in our format, AdapterHub's or PEFT's.

    Args:
        folder: the folder.
        backbone: the spec of the backbone it is to go on.
        name: what to call it; as the file does by default.
        with_head: read the head in the folder too, if there is one.
        fingerprint: that of the backbone; without one the saved fingerprint is not looked at.
        allow_backbone: take it although it was made for another backbone.
        subtract_projection: True for NoReFT, False for DiReFT: AdapterHub's files of the two are the same.
        modules: the names of the backbone's modules, which PEFT's files are read by.

    Raises:
        FileError: missing, damaged, not supported, or for another backbone.
    """
    view, form = expect(folder, "adapter")
    if form == "adapterhub":
        return adapterhub.read_adapter(view, backbone, name, with_head, subtract_projection)
    adapterhub.check_unasked(subtract_projection, str(folder))
    if form == "peft":
        if modules is None:
            raise FileError(
                "a PEFT folder is read by the names of a backbone's modules",
                where=str(view.path),
                hint="model.load_adapter(folder)",
            )
        return peft.read_adapter(view, modules, name, with_head)
    record = native.load_adapter(folder, name, with_head)
    saved = [record.fingerprint, *([record.head.fingerprint] if record.head else [])]
    check_backbone(saved, fingerprint, str(folder), allow_backbone)
    return record


def read_fusion(
    folder: str | Path,
    backbone: BackboneSpec,
    name: str | None = None,
    fingerprint: Fingerprint | None = None,
    allow_backbone: bool = False,
) -> FusionRecord:
    """A fusion from a folder in our format or AdapterHub's; see `read_adapter`."""
    view, form = expect(folder, "fusion")
    if form == "adapterhub":
        return adapterhub.read_fusion(view, backbone, name)
    record = native.load_fusion(folder, name)
    check_backbone([record.fingerprint], fingerprint, str(folder), allow_backbone)
    return record


def read_head(
    folder: str | Path,
    backbone: BackboneSpec,
    name: str | None = None,
    fingerprint: Fingerprint | None = None,
    allow_backbone: bool = False,
) -> HeadRecord:
    """A head from a folder in our format or AdapterHub's; see `read_adapter`."""
    view, form = expect(folder, "head")
    if form == "adapterhub":
        return adapterhub.read_head(view, backbone, name)
    record = native.load_head(folder, name)
    check_backbone([record.fingerprint], fingerprint, str(folder), allow_backbone)
    return record


def read_composition(
    folder: str | Path,
    fingerprint: Fingerprint | None = None,
    allow_backbone: bool = False,
    backbone: BackboneSpec | None = None,
) -> CompositionRecord:
    """A composition from a folder in our format, or AdapterHub's, which needs the `backbone`; see `read_adapter`."""
    view, form = expect(folder, "composition")
    if form == "adapterhub":
        if backbone is None:
            raise FileError(
                "an AdapterHub setup does not say which backbone it is for",
                where=str(view.path),
                hint="compose.load_plan(folder, model=...)",
            )
        return adapterhub.read_composition(view, backbone)
    record = composition.load_composition(folder)
    saved = [each.fingerprint for each in record.adapters.values()]
    saved += [each.fingerprint for each in record.fusions.values()]
    saved += [each.fingerprint for each in record.heads.values()]
    check_backbone(saved, fingerprint, str(folder), allow_backbone)
    return record


def check_backbone(
    saved: Iterable[Fingerprint | None], own: Fingerprint | None, where: str, allow: bool = False
) -> None:
    """Refuse what was made for another backbone.

    Args:
        saved: the fingerprints of what was read; None where the file has none, which fits no backbone.
        own: the fingerprint of the backbone at hand; without one nothing is compared.
        where: the path that errors name.
        allow: take it all the same.

    Raises:
        FileError: naming both backbones.
    """
    if own is None or allow:
        return
    known = dict.fromkeys(saved)
    problems = {problem for each in known if each for problem in each.mismatch(own)}
    if None in known:
        problems.add(Problem("does not say for which backbone it was made", why="there is no 'fingerprint' in it"))
    if problems:
        raise FileError(
            [
                replace(problem, where=where, hint=problem.hint or "allow_backbone=True, if it is meant")
                for problem in sorted(problems, key=str)
            ]
        )
