"""Saving in a format by its name: native, AdapterHub's or PEFT's."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

from compose.errors import FileError
from compose.io import adapterhub, composition, native, peft
from compose.io.detect import FORMATS, Kind
from compose.io.export import export
from compose.io.modules import BackboneModules
from compose.io.records import AdapterRecord, CompositionRecord, FusionRecord, HeadRecord


def write_adapter(
    record: AdapterRecord,
    folder: str | Path,
    modules: BackboneModules,
    form: str = "native",
    **options: Any,
) -> None:
    """Save an adapter, with the head that its record carries.

    Args:
        record: the adapter.
        folder: where to; created if need be.
        modules: the backbone that it is for.
        form: `native`, `adapterhub` or `peft`.
        **options: the format's own: PEFT's `task_type`.

    Raises:
        FileError: the format cannot say it (all that it cannot, at once), or the folder cannot be written.
    """
    if form == "peft":
        files = peft.adapter_files(record, modules, **options)
        export(folder, files, "peft", "adapter", ("adapter_model.bin",))
    elif form == "adapterhub" and not options:
        files = adapterhub.adapter_files(record, modules)
        # its loader takes a torch file first
        export(folder, files, "adapterhub", "adapter", ("pytorch_adapter.bin", *(_OLD_HEAD if record.head else ())))
    elif form == "native" and not options:
        native.save_adapter(record, folder)
    else:
        _refuse(form, "adapter", options)


def write_fusion(record: FusionRecord, folder: str | Path, modules: BackboneModules, form: str = "native") -> None:
    """Save a fusion; see `write_adapter`."""
    if form == "adapterhub":
        files = adapterhub.fusion_files(record, modules)
        export(folder, files, "adapterhub", "fusion", ("pytorch_model_adapter_fusion.bin",))
    elif form == "native":
        native.save_fusion(record, folder)
    else:
        _refuse(form, "fusion")


def write_head(record: HeadRecord, folder: str | Path, modules: BackboneModules, form: str = "native") -> None:
    """Save a head; see `write_adapter`."""
    if form == "adapterhub":
        export(folder, adapterhub.head_files(record, modules), "adapterhub", "head", _OLD_HEAD)
    elif form == "native":
        native.save_head(record, folder)
    else:
        _refuse(form, "head")


def write_composition(
    record: CompositionRecord, folder: str | Path, modules: BackboneModules, form: str = "native"
) -> None:
    """Save a composition; see `write_adapter`."""
    if form == "adapterhub":
        files = adapterhub.composition_files(record, modules)
        export(folder, files, "adapterhub", "composition")
    elif form == "native":
        composition.save_composition(record, folder)
    else:
        _refuse(form, "composition")


_OLD_HEAD = ("pytorch_model_head.bin",)


def _refuse(form: str, kind: Kind, options: dict[str, Any] | None = None) -> NoReturn:
    if form not in FORMATS:
        raise FileError(f"there is no format {form!r}", got=str(form), legal=FORMATS)
    if options:
        raise FileError(f"the format '{form}' has no option {', '.join(map(repr, options))}")
    raise FileError(
        f"PEFT's format has no {kind}",
        hint="format='native' or 'adapterhub'" if kind != "head" else "save_adapter(..., with_head=True)",
    )
