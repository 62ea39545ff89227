"""The folder of a run: complete under its name, or marked INCOMPLETE under another."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from compose import __version__
from compose.errors import FileError
from compose.io.whole import sync_folder, write_whole
from compose.recipes.manifest import MANIFEST, MARK, read_manifest

TRAINING = "training"
"""The folder of what is trained, until the run is complete."""

PACKAGES = ("torch", "transformers", "accelerate", "numpy", "safetensors", "scikit-learn")


class RunFolder:
    """Where a run writes: beside its place until it is complete, then moved there in one step.

    Args:
        target: where the finished run belongs.
        recipe: the name of the recipe.
        overwrite: whether another recipe's run may be replaced.
        resume: whether to go on with what an interrupted run left.

    Raises:
        FileError: something else is there, or the folder cannot be written.
    """

    def __init__(self, target: Path, recipe: str, overwrite: bool = False, resume: bool = False) -> None:
        self.target = target
        self.path = unfinished(target)
        self.started = time.time()
        settle(target)
        check_replaceable(target, recipe, overwrite)
        try:
            if self.path.exists() and not (resume and is_interrupted(target)):
                if not is_interrupted(target) and any(self.path.iterdir()):
                    raise FileError("is there, and is no interrupted run", where=str(self.path))
                _discard(self.path)
            if not self.path.exists():
                self.path.mkdir(parents=True)
                self.write_text(MARK, f"{recipe} began at {_now()} and has not ended\n")
        except OSError as error:
            raise FileError(f"cannot be written: {error.strerror or error}", where=str(self.path)) from None

    def checkpoint(self, index: int) -> Path:
        """The file that a stage's training is kept in until the run is complete."""
        (self.path / TRAINING).mkdir(exist_ok=True)
        return checkpoint_in(self.path, index)

    def write_text(self, name: str, text: str) -> None:
        """Write a file in the folder, complete or not at all."""
        write_whole(self.path / name, text.encode())

    def write_json(self, name: str, value: Any) -> None:
        """Write a value as JSON."""
        self.write_text(name, json.dumps(value, indent=2, ensure_ascii=False) + "\n")

    def so_far(self, facts: dict[str, Any]) -> dict[str, Any]:
        """What the manifest would say now: some facts, how long it took, and with which versions."""
        versions = {name: metadata.version(name) for name in PACKAGES if _installed(name)}
        return {
            **facts,
            "seconds": round(time.time() - self.started, 1),
            "versions": {"compose": __version__, "python": platform.python_version(), **versions},
        }

    def finish(self, facts: dict[str, Any]) -> Path:
        """Write the manifest, take the mark off and move the folder to its place.

        Args:
            facts: what else to record of the run.
        """
        own = [path for path in self.path.rglob("*") if path.is_file() and not _passes(path, self.path)]
        manifest = {
            "status": "complete",
            **self.so_far(facts),
            "ended": _now(),
            "sha256": {path.relative_to(self.path).as_posix(): _digest(path) for path in sorted(own)},
        }
        self.write_json(MANIFEST, manifest)
        (self.path / MARK).unlink()  # from here on the run is complete, and `settle` can do the rest
        sync_folder(self.path)
        settle(self.target)
        return self.target


def unfinished(target: Path) -> Path:
    """Where a run is until it is complete."""
    return target.with_name(f"{target.name}.partial")


def checkpoint_in(folder: Path, index: int) -> Path:
    """The file of a stage's training in the folder of a run that is not complete."""
    return folder / TRAINING / f"stage-{index + 1}.safetensors"


def is_interrupted(target: Path) -> bool:
    """Whether a run to this place was interrupted, or is under way."""
    return (unfinished(target) / MARK).exists()


def settle(target: Path) -> None:
    """Moves a run that is complete to its place, where it was interrupted just before that."""
    path, old = unfinished(target), target.with_name(f".{target.name}.replaced")
    if (path / MARK).exists() or read_manifest(path) is None:
        return
    try:
        shutil.rmtree(path / TRAINING, ignore_errors=True)
        for file in path.rglob(".*.tmp"):
            file.unlink()
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
            os.replace(target, old)
        os.replace(path, target)
        sync_folder(target.parent)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise FileError(f"cannot be written: {error.strerror or error}", where=str(target)) from None


def reopen(target: Path) -> None:
    """Marks a run that is complete as interrupted, so that it goes on."""
    try:
        os.replace(target, unfinished(target))  # until the mark is there, `settle` moves it back
        write_whole(unfinished(target) / MARK, f"goes on at {_now()} and has not ended\n".encode())
    except OSError as error:
        raise FileError(f"cannot be written: {error.strerror or error}", where=str(target)) from None


def check_replaceable(target: Path, recipe: str, overwrite: bool) -> None:
    """Refuses a place for a run where something stands that a run may not replace.

    Raises:
        FileError: something that is no run, or another recipe's run without `overwrite`.
    """
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    manifest = read_manifest(target)
    if manifest is None:
        raise FileError("is there, and is no run", where=str(target), hint="another --out")
    if manifest["recipe"] != recipe and not overwrite:
        what = f"holds a run of another recipe, '{manifest['recipe']}'"
        raise FileError(what, where=str(target), hint="another --out, or --overwrite")


def _discard(folder: Path) -> None:
    """Removes a folder; it has another name from the first moment on, so that it is never found half removed."""
    gone = folder.with_name(f".{folder.name}.discarded")
    shutil.rmtree(gone, ignore_errors=True)
    os.replace(folder, gone)
    shutil.rmtree(gone)


def _passes(path: Path, folder: Path) -> bool:
    """Whether a file is of an unfinished run only."""
    name = path.relative_to(folder)
    return name.parts[0] in (MARK, MANIFEST, TRAINING) or (name.name[0] == "." and name.suffix == ".tmp")


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
