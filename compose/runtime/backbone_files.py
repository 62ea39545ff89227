"""A backbone beside a composition: where its weights exist nowhere else, since they were drawn or trained here."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from compose.errors import FileError
from compose.io.whole import sync_folder
from compose.runtime.merged import require_unmerged

if TYPE_CHECKING:
    from compose.runtime.model import Model

INSIDE = "./"
"""What a composition's `backbone` begins with where it is a folder inside its own."""

NAME = re.compile(r"backbone-[0-9a-f]{16}")
"""Its folder, called by what its files are: one that is there is the right one, and is never written again."""


def write_backbone(model: Model, folder: Path) -> str:
    """Writes a model's backbone, and its tokenizer, into a folder of a composition, whole or not at all.

    Args:
        model: the model.
        folder: the composition's.

    Returns:
        What the composition is to call it.

    Raises:
        FileError: it cannot be written.
        BackboneError: adapters are merged into it.
    """
    require_unmerged([model.hooks], "its weights are not its own")
    temporary = folder / ".backbone.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        model.backbone.save_pretrained(temporary)  # type: ignore[operator]
        if model.tokenizer is not None:
            model.tokenizer.save_pretrained(temporary)
        name = f"backbone-{_digest(temporary)}"
        if (folder / name).exists():
            shutil.rmtree(temporary)
        else:
            os.replace(temporary, folder / name)
        sync_folder(folder)
    except OSError as error:
        raise FileError(f"the backbone cannot be saved: {error.strerror or error}", where=str(folder)) from error
    return INSIDE + name


def forget_others(folder: Path, kept: str | None) -> None:
    """Removes the backbones of older versions of a composition.

    Args:
        folder: the composition's.
        kept: what it calls its backbone.
    """
    for path in folder.glob("backbone-*"):
        if NAME.fullmatch(path.name) and INSIDE + path.name != kept:
            shutil.rmtree(path, ignore_errors=True)


def backbone_source(called: str, folder: Path) -> str:
    """Where a composition's backbone is: inside its folder, or wherever the name says.

    Raises:
        FileError: it should be inside, but is not.
    """
    if not called.startswith(INSIDE):
        return called
    name = called.removeprefix(INSIDE)
    if not NAME.fullmatch(name) or not (folder / name).is_dir():
        raise FileError(f"its backbone is not there: '{called}'", where=str(folder))
    return str(folder / name)


def _digest(folder: Path) -> str:
    """What tells a folder's files from others; they are synced on the way."""
    found = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with open(path, "rb") as file:
            found.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
            os.fsync(file.fileno())
    sync_folder(folder)
    return found.hexdigest()[:16]
