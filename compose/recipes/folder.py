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

MARK = "INCOMPLETE"
MANIFEST = "run.json"
PACKAGES = ("torch", "transformers", "numpy", "safetensors", "scikit-learn")


class RunFolder:
    """Where a run writes: beside its place until it is complete, then moved there in one step.

    Args:
        target: where the finished run belongs.
        recipe: the name of the recipe.
        overwrite: whether another recipe's run may be replaced.

    Raises:
        FileError: something else is there, or the folder cannot be written.
    """

    def __init__(self, target: Path, recipe: str, overwrite: bool = False) -> None:
        self.target = target
        self.path = target.with_name(f"{target.name}.partial")
        self.started = time.time()
        check_replaceable(target, recipe, overwrite)
        try:
            if self.path.exists():
                if not (self.path / MARK).exists():
                    raise FileError("is there, and is no interrupted run", where=str(self.path))
                shutil.rmtree(self.path)
            self.path.mkdir(parents=True)
            self.write_text(MARK, f"{recipe} began at {_now()} and has not ended\n")
        except OSError as error:
            raise FileError(f"cannot be written: {error.strerror or error}", where=str(self.path)) from None

    def write_text(self, name: str, text: str) -> None:
        """Write a file in the folder, complete or not at all."""
        path = self.path / name
        temporary = path.with_name(f".{path.name}.tmp")
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)

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
        files = sorted(path for path in self.path.rglob("*") if path.is_file() and path.name != MARK)
        manifest = {
            "status": "complete",
            **self.so_far(facts),
            "ended": _now(),
            "sha256": {path.relative_to(self.path).as_posix(): _digest(path) for path in files},
        }
        self.write_json(MANIFEST, manifest)
        (self.path / MARK).unlink()
        if self.target.exists():
            old = self.target.with_name(f"{self.target.name}.old")
            shutil.rmtree(old, ignore_errors=True)
            os.replace(self.target, old)
            os.replace(self.path, self.target)
            shutil.rmtree(old)
        else:
            os.replace(self.path, self.target)
        return self.target


def seed_folder(seed: int) -> str:
    """The name of the folder of one seed of several, in that of the run.

    >>> seed_folder(3)
    'seed-3'
    """
    return f"seed-{seed}"


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """What a finished run recorded of itself; None if the folder is none."""
    try:
        found = json.loads((folder / MANIFEST).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and "recipe" in found else None


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
