"""Processes that compute only when they are told to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from compose.errors import BenchError, InputError

ROOT = Path(__file__).parents[2]
PEER = Path(__file__).with_name("peer.py")
KEEPS = {"MALLOC_MMAP_THRESHOLD_": str(2**40), "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40)}
"""Has glibc keep freed memory; else it depends on what the process did before how much of it is fetched anew in each
call, which made up to 8% of a call's time for one process and nothing for another. Releases of glibc that refuse so
high a threshold, and keep a low one, heed that no mapping is allowed."""
LAST_LINES = 5
"""Lines of a failed worker's messages that are shown."""


def command_of(peer: str | None) -> list[str]:
    """How to start a worker: ours, or the peer's under its interpreter, apart from ours."""
    return [sys.executable, "-m", "compose.bench.worker"] if peer is None else [peer, "-I", str(PEER)]


class Worker:
    """A process that runs one contestant, and waits between rounds.

    Args:
        command: what to start.
        threads: of each of its products of matrices.
        keeps: whether its allocator keeps memory that is freed; see `KEEPS`.
    """

    def __init__(self, command: Sequence[str], threads: int, keeps: bool = False) -> None:
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115, closed in end
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
            env=environment(threads, keeps),
            # Ctrl-C is the parent's to answer: it ends its workers itself, all at once.
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """The number of its process."""
        return self._process.pid

    def tell(self, **order: Any) -> dict[str, Any]:
        """Gives an order and waits for the answer.

        Raises:
            BenchError: it failed or ended.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except (BrokenPipeError, ValueError):
            line = ""
        answer: dict[str, Any] = json.loads(line) if line else {"error": f"it ended ({self._ended()})"}
        if "error" in answer:
            raise BenchError(f"the worker failed: {answer['error']}", why=self._said())
        return answer

    def end(self) -> None:
        """Ends the process, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        self._errors.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def _ended(self) -> str:
        try:
            return f"exit code {self._process.wait(timeout=5)}"
        except subprocess.TimeoutExpired:
            return "without an answer"

    def _said(self) -> str:
        self._errors.seek(0)
        lines = [line.rstrip() for line in self._errors if line.strip()]
        return "\n       ".join(lines[-LAST_LINES:])


def environment(threads: int, keeps: bool) -> dict[str, str]:
    """What workers find around them: the same for all of a case."""
    count = str(threads)
    return {
        **os.environ,
        **(KEEPS if keeps else {}),
        "OMP_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "30000"),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        # Ours find the package that runs now; the peer's interpreter is started so that it reads no such variable.
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", "")))),
    }


def check_peer(interpreter: str) -> dict[str, str]:
    """The peer's versions.

    Args:
        interpreter: one that has `adapters` installed.

    Raises:
        InputError: there is no such interpreter, or it lacks a package.
    """
    names = ("adapters", "transformers", "torch")
    code = (
        "import json, platform; from importlib import metadata\n"
        f"found = {{'python': platform.python_version()}}\n"
        f"for name in {names!r}:\n"
        "    try: found[name] = metadata.version(name)\n"
        "    except metadata.PackageNotFoundError: pass\n"
        "print(json.dumps(found))"
    )
    where = f"--peer {interpreter}"
    try:
        done = subprocess.run([interpreter, "-I", "-c", code], capture_output=True, text=True, timeout=60)
        found: dict[str, str] = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        raise InputError("is no Python interpreter that runs", where=where, hint="--peer venv/bin/python") from None
    missing = [name for name in names if name not in found]
    if missing:
        raise InputError(
            f"that interpreter has no {' and no '.join(missing)}", where=where, hint="pip install adapters there"
        )
    return found
