"""Folders of several files, saved so that after a crash the old or the new version is complete.

A rename replaces one file atomically, but a version consists of several: weights, manifest, perhaps a head.
So a save keeps a small redo log:

1. every file is written beside its place as `NAME.new` and synced;
2. `.commit.json`, which lists them, is written, synced and renamed into place: this is the moment at which
   the new version counts;
3. each `NAME.new` is renamed to `NAME`, manifests last, then `.commit.json` is removed.

A reader that finds `.commit.json` takes `NAME.new` where it still exists and `NAME` where it was renamed
already. Without `.commit.json` it takes `NAME`, and every `NAME.new` is a leftover. The next save finishes
or clears what a killed one left. Writers of one folder exclude each other by a lock on the folder itself,
which the system drops with the process. The manifest holds the weights' sha256, so a file that is swapped or
damaged later is noticed.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from compose.errors import FileError
from compose.io.jsonfile import dump_json
from compose.io.view import FOLDER, FOLDERS, JOURNAL, MEMBER, NEW, View, check_member, journal
from compose.io.weights import dump_weights, load_weights
from compose.io.whole import sync_folder

try:
    import fcntl
except ImportError:  # Windows has no lock on folders: there, two writers of one folder are the user's care
    fcntl = None  # type: ignore[assignment]

_log = logging.getLogger(__name__)


def pair_files(stem: str, tensors: Mapping[str, Tensor], manifest: Mapping[str, Any]) -> list[tuple[str, bytes]]:
    """`STEM.safetensors` and `STEM.json`, the manifest last and with the sha256 of the weights.

    Args:
        stem: `adapter`, `fusion` or `head`, with a folder in front in a composition.
        tensors: the weights by name.
        manifest: what else is to be said.
    """
    weights = dump_weights(tensors)
    digest = hashlib.sha256(weights).hexdigest()
    return [(f"{stem}.safetensors", weights), (f"{stem}.json", dump_json({**manifest, "sha256": digest}))]


def read_pair(folder: str | Path, stem: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What `pair_files` wrote: the manifest (without its sha256) and the weights.

    Raises:
        FileError: a file is missing, damaged, or not the one that the manifest belongs to.
    """
    for attempt in range(3):
        view = View(folder)
        manifest = view.manifest(f"{stem}.json")
        data = view.map(f"{stem}.safetensors")
        digest = manifest.pop("sha256", None)
        found = hashlib.sha256(data).hexdigest()
        if digest == found or attempt == 2:
            break
        # A save by another process may have come between the two reads: look again.
    where = view.path / f"{stem}.safetensors"
    if digest is None:
        raise FileError("the manifest has no 'sha256'", where=str(view.path / f"{stem}.json"))
    if digest != found:
        # What is visibly broken says so better than a checksum does.
        load_weights(data, where)
        raise FileError(
            f"sha256 {found[:12]}... is not the one in {Path(stem).name}.json ({str(digest)[:12]}...)",
            where=str(where),
            why="the file was changed or damaged after it was saved, or it belongs to another manifest",
        )
    return manifest, load_weights(data, where)


def commit(folder: str | Path, files: Iterable[tuple[str, bytes]], removed: Iterable[str] = ()) -> tuple[str, ...]:
    """Save a version of a folder: all of `files`, or nothing.

    Args:
        folder: created if need be.
        files: names (relative, with `/`) and bytes; manifests after what they describe.
        removed: names that the new version no longer has.

    Returns:
        The leftovers of a killed save that were cleared first.

    Raises:
        FileError: the files cannot be written. The old version is then still complete, or (if the failure
            came after the commit) the new one is.
    """
    folder = Path(folder)
    written: list[Path] = []
    if "\0" in str(folder):
        raise FileError("the name of a folder cannot have a NUL", where=repr(str(folder))[:200])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            cleared = recover(folder)
            try:
                names = []
                for name, data in files:
                    check_member(name, folder)
                    written.append(folder / (name + NEW))
                    written[-1].parent.mkdir(parents=True, exist_ok=True)
                    _write(written[-1], data)
                    names.append(name)
                gone = sorted({name for name in removed if name not in names and (folder / name).exists()})
                for name in gone:
                    check_member(name, folder)
                _sync_folders(folder, names)
                written.append(folder / (JOURNAL + NEW))
                _write(written[-1], dump_json({"files": names, "removed": gone}))
                os.replace(folder / (JOURNAL + NEW), folder / JOURNAL)
            except Exception:
                for path in written:
                    path.unlink(missing_ok=True)
                raise
            sync_folder(folder)
            _finish(folder, names, gone)
    except OSError as error:
        raise FileError(f"cannot be saved: {error.strerror or error}", where=str(folder)) from error
    return cleared


def recover(folder: Path) -> tuple[str, ...]:
    """Finish a save that was cut short after its commit; clear one that was cut short before.

    Returns:
        The names of the leftovers.
    """
    found = leftovers(folder)
    if (folder / JOURNAL).exists():
        _finish(folder, *journal(folder))
    for name in found:
        (folder / name).unlink(missing_ok=True)
    if found:
        _log.warning("%s: cleared what a save that was cut short left: %s", folder, ", ".join(found))
    return found


def leftovers(folder: str | Path) -> tuple[str, ...]:
    """The files that a save that was cut short left in `folder`, by name."""
    folder = Path(folder)
    names = [JOURNAL, JOURNAL + NEW]
    places = [folder, *(inner for kind in FOLDERS for inner in sorted((folder / kind).glob("*/")))]
    for place in places:
        names += [path.relative_to(folder).as_posix() for path in sorted(place.glob("*" + NEW))]
    return tuple(
        name
        for name in dict.fromkeys(names)
        if (name.startswith(JOURNAL) or MEMBER.fullmatch(name.removesuffix(NEW))) and (folder / name).is_file()
    )


def is_folder_name(name: object) -> bool:
    """Whether a manifest may name this as a folder inside its own."""
    return isinstance(name, str) and re.fullmatch(FOLDER, name) is not None


def _finish(folder: Path, names: Iterable[str], removed: Iterable[str]) -> None:
    """Step 3: safe to repeat from any point."""
    names = list(names)
    for name in names:
        with contextlib.suppress(FileNotFoundError):  # renamed before the crash
            os.replace(folder / (name + NEW), folder / name)
    for name in removed:
        (folder / name).unlink(missing_ok=True)
        if "/" in name:
            with contextlib.suppress(OSError):  # not empty: someone else's file is in it
                (folder / name).parent.rmdir()
    _sync_folders(folder, names)
    (folder / JOURNAL).unlink(missing_ok=True)
    sync_folder(folder)


def _write(path: Path, data: bytes) -> None:
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folders(folder: Path, names: Iterable[str]) -> None:
    inner = {(folder / name).parent for name in names}
    # The parents too: a folder that was just created is an entry in them.
    for path in sorted({*inner, *(path.parent for path in inner), folder, folder.parent}):
        sync_folder(path)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
