"""A backbone beside a composition: where its weights exist nowhere else, since they were drawn or trained here."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from compose.errors import FileError
from compose.io.whole import sync_folder
from compose.runtime.merged import require_unmerged

if TYPE_CHECKING:
    from compose.runtime.model import Model

INSIDE = "./"
"""What a composition's `backbone` begins with where it is a folder inside its own."""

NAME = re.compile(r"backbone-[0-9a-f]{16}")
"""Its folder, called by what its weights are: one that is there is the right one, and is never written again."""


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
    name = f"backbone-{_digest(model)}"
    place, temporary = folder / name, folder / f".{name}.tmp"
    try:
        if not place.exists():
            folder.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(temporary, ignore_errors=True)
            model.backbone.save_pretrained(temporary)  # type: ignore[operator]
            if model.tokenizer is not None:
                model.tokenizer.save_pretrained(temporary)
            for path in temporary.iterdir():
                _sync(path)
            sync_folder(temporary)
            os.replace(temporary, place)
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


def _digest(model: Model) -> str:
    found = hashlib.sha256(model.config.to_json_string().encode())
    for name, tensor in model.backbone.state_dict().items():
        plain = tensor.detach().cpu().contiguous().flatten()
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(memoryview(plain.view(torch.uint8).numpy()))
    return found.hexdigest()[:16]


def _sync(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
