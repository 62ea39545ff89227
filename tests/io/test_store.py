"""Saving is atomic: after a crash at any moment the old or the new version is complete."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from compose.errors import FileError
from compose.io import (
    AdapterRecord,
    CompositionRecord,
    leftovers,
    load_adapter,
    load_composition,
    save_adapter,
    save_composition,
    save_head,
    store,
)
from tests.io.folders import adapter, fusion, head, same

ROOT = Path(__file__).resolve().parents[2]


class Killed(BaseException):
    """Stands for the end of the process: nothing catches it, nothing is cleaned up."""


class Countdown:
    """Ends the process, so to speak, at the n-th call that changes the disk; a write may end half way."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
        self.left = steps
        for name in ("replace", "fsync", "unlink", "rmdir"):
            monkeypatch.setattr(os, name, self.wrapped(getattr(os, name)))
        monkeypatch.setattr(store, "_write", self.writing(store._write))

    def tick(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Killed

    def wrapped(self, function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.tick()
            return function(*args, **kwargs)

        return call

    def writing(self, function: Any) -> Any:
        def write(path: Path, data: bytes) -> None:
            try:
                self.tick()
            except Killed:
                path.write_bytes(data[: len(data) // 2])
                raise
            function(path, data)

        return write


def version(folder: Path, old: AdapterRecord, new: AdapterRecord) -> str:
    """Which of two versions a folder holds; it must hold one of them, whole."""
    found = load_adapter(folder)
    for name, record in (("old", old), ("new", new)):
        if same(found.tensors, record.tensors):
            assert found.meta == record.meta
            assert (found.head is None) == (record.head is None)
            if found.head and record.head:
                assert same(found.head.tensors, record.head.tensors)
            return name
    raise AssertionError("a mixture")


@pytest.mark.parametrize("heads", [(False, True), (True, True), (True, False)])
def test_killed_at_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, heads: tuple[bool, bool]) -> None:
    old = adapter(seed=1, meta={"run": 1}, head=head(seed=1) if heads[0] else None)
    new = adapter(seed=2, meta={"run": 2}, head=head(seed=2) if heads[1] else None)
    seen = []
    for steps in range(100):
        folder = tmp_path / str(steps)
        save_adapter(old, folder)
        with monkeypatch.context() as patch:
            countdown = Countdown(patch, steps)
            with contextlib.suppress(Killed):
                save_adapter(new, folder)
        seen.append(version(folder, old, new))
        # and the save after that finds and clears what is left
        before = leftovers(folder)
        assert save_adapter(new, folder) == before
        assert version(folder, old, new) == "new"
        assert not leftovers(folder)
        names = {"adapter.json", "adapter.safetensors"}
        assert {path.name for path in folder.iterdir()} == names | (
            {"head.json", "head.safetensors"} if new.head else set()
        )
        if countdown.left > 0:
            break
    assert seen == sorted(seen, reverse=True)  # old, ..., old, new, ..., new
    assert {"old", "new"} == set(seen) and len(seen) > 10


def test_killed_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Saves that are cut short one after the other, without a whole one between them."""
    random.seed(0)
    records = [adapter(seed=seed, meta={"run": seed}) for seed in range(8)]
    save_adapter(records[0], tmp_path)
    for _ in range(200):
        with monkeypatch.context() as patch:
            Countdown(patch, random.randrange(16))
            with contextlib.suppress(Killed):
                save_adapter(random.choice(records), tmp_path)
        found = load_adapter(tmp_path)
        assert same(found.tensors, records[found.meta["run"]].tensors)


def test_composition_killed_at_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def composition(seed: int) -> CompositionRecord:
        adapters = {"nli": adapter(seed=seed)} | ({"qqp": adapter("qqp", seed)} if seed == 1 else {})
        return CompositionRecord("nli", adapters, {"nli,qqp": fusion(seed=seed)}, {"nli": head(seed=seed)})

    versions = []
    for steps in range(0, 200, 3):
        folder = tmp_path / str(steps)
        save_composition(composition(1), folder)
        (folder / "adapters" / "mine").mkdir()
        (folder / "adapters" / "mine" / "adapter.json").write_text("{}")  # a stranger's file stays
        with monkeypatch.context() as patch:
            countdown = Countdown(patch, steps)
            with contextlib.suppress(Killed):
                save_composition(composition(2), folder)
        found = load_composition(folder)
        versions.append(1 if same(found.adapters["nli"].tensors, adapter(seed=1).tensors) else 2)
        expected = composition(versions[-1])
        assert found.adapters.keys() == expected.adapters.keys()
        assert same(found.fusions["nli,qqp"].tensors, expected.fusions["nli,qqp"].tensors)
        assert same(found.heads["nli"].tensors, expected.heads["nli"].tensors)
        save_composition(composition(2), folder)
        assert not leftovers(folder)
        assert sorted(path.name for path in (folder / "adapters").iterdir()) == ["mine", "nli"]
        if countdown.left > 0:
            break
    assert versions == sorted(versions) and set(versions) == {1, 2}


SAVER = """
import os, sys, torch
from compose.io import AdapterRecord, save_adapter
from compose.methods.registry import make_config

folder, config = sys.argv[1], make_config("seq_bn")
records = [
    AdapterRecord("a", config, {"0.ffn.up.weight": torch.full((300_000,), float(seed))}, meta={"run": seed})
    for seed in range(2)
]
save_adapter(records[0], folder)
for line in sys.stdin:  # one child per line: it saves until it is killed
    child = os.fork()
    if child == 0:
        run = 0
        while True:
            run += 1
            save_adapter(records[run % 2], folder)
    print(child, flush=True)
    os.waitpid(child, 0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_by_the_system(tmp_path: Path) -> None:
    random.seed(0)
    command = [sys.executable, "-W", "ignore", "-c", SAVER, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as saver:
        assert saver.stdin and saver.stdout
        for _ in range(20):
            print(file=saver.stdin, flush=True)
            child = int(saver.stdout.readline())
            time.sleep(random.uniform(0.001, 0.06))
            os.kill(child, signal.SIGKILL)
            time.sleep(0.01)
            found = load_adapter(tmp_path)
            assert (found.tensors["0.ffn.up.weight"] == found.meta["run"]).all()
        saver.stdin.close()
    assert saver.returncode == 0


def test_read_while_another_writes(tmp_path: Path) -> None:
    records = [adapter(seed=seed, meta={"run": seed}) for seed in range(2)]
    save_adapter(records[0], tmp_path)
    done = threading.Event()
    problems: list[BaseException] = []

    def write(offset: int) -> None:
        try:
            for run in range(40):
                save_adapter(records[(run + offset) % 2], tmp_path)
        except BaseException as error:
            problems.append(error)
        finally:
            done.set()

    threads = [threading.Thread(target=write, args=(offset,)) for offset in range(2)]
    for thread in threads:
        thread.start()
    while not done.is_set():
        found = load_adapter(tmp_path)
        assert same(found.tensors, records[found.meta["run"]].tensors)
    for thread in threads:
        thread.join()
    assert not problems and not leftovers(tmp_path)


def failing(function: Any, at: int, code: int) -> Any:
    """`function`, whose call number `at` fails."""
    calls = itertools.count()

    def call(*args: Any) -> Any:
        if next(calls) == at:
            raise OSError(code, os.strerror(code))
        return function(*args)

    return call


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS])
def test_disk_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    old, new = adapter(seed=1), adapter(seed=2)
    for name in ("fsync", "replace"):
        for fail_at in range(3):
            folder = tmp_path / f"{name}{fail_at}"
            save_adapter(old, folder)
            with monkeypatch.context() as patch:
                patch.setattr(os, name, failing(getattr(os, name), fail_at, code))
                with pytest.raises(FileError, match=str(folder)):
                    save_adapter(new, folder)
            if version(folder, old, new) == "old":
                assert not leftovers(folder)
            save_adapter(new, folder)
            assert version(folder, old, new) == "new"


def test_a_file_of_limited_size(tmp_path: Path) -> None:
    """The operating system's own limit on a file's size."""
    script = (
        "import resource, signal, sys\n"
        "from tests.io.folders import adapter\n"
        "from compose.errors import FileError\n"
        "from compose.io import save_adapter\n"
        "save_adapter(adapter(seed=1), sys.argv[1])\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))\n"
        "try:\n    save_adapter(adapter(seed=2), sys.argv[1])\n"
        "except FileError as error:\n    print(error)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert str(tmp_path) in run.stdout and "cannot be saved" in run.stdout
    assert version(tmp_path, adapter(seed=1), adapter(seed=2)) == "old"
    assert not leftovers(tmp_path)


def test_the_place_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="file"):
        save_adapter(adapter(), tmp_path / "file")
    with pytest.raises(FileError, match="no such folder"):
        load_adapter(tmp_path / "nothing")
    for name in ("a\0b", "x" * 10_000):
        with pytest.raises(FileError):
            load_adapter(tmp_path / name)
        with pytest.raises(FileError):
            save_adapter(adapter(), tmp_path / name)


def test_saving_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    record = adapter(head=head(), meta={"b": 1, "a": {"d": 2, "c": 3}})
    save_adapter(record, tmp_path / "1")
    record.tensors = dict(reversed(record.tensors.items()))
    save_adapter(record, tmp_path / "2")
    save_adapter(load_adapter(tmp_path / "1"), tmp_path / "3")
    contents = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in sorted(tmp_path.iterdir())]
    assert contents[0] == contents[1] == contents[2]
    assert len(contents[0]) == 4


def test_a_journal_cannot_reach_outside(tmp_path: Path) -> None:
    outside = tmp_path / "precious.json"
    outside.write_text("{}")
    folder = tmp_path / "adapter"
    save_adapter(adapter(), folder)
    for name in ("../precious.json", str(outside), "precious.json", "adapters/../../precious.json", 3):
        for journal in ({"files": [], "removed": [name]}, {"files": [name], "removed": []}):
            (folder / ".commit.json").write_text(json.dumps(journal))
            with pytest.raises(FileError, match="not the name of a file"):
                load_adapter(folder)
            with pytest.raises(FileError, match="not the name of a file"):
                save_adapter(adapter(), folder)
            assert outside.exists()


def test_a_head_beside_an_adapter(tmp_path: Path) -> None:
    save_adapter(adapter(), tmp_path)
    save_head(head("other"), tmp_path)
    assert load_adapter(tmp_path).head is None  # it is not the adapter's
    save_adapter(adapter(), tmp_path)
    assert (tmp_path / "head.json").exists()  # and stays where it is
    save_adapter(adapter(head=head()), tmp_path)
    assert (found := load_adapter(tmp_path).head) and found.name == "nli"
    save_adapter(adapter(), tmp_path)
    assert not (tmp_path / "head.json").exists()
