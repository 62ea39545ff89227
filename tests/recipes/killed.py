"""Runs a recipe in child processes that kill themselves with SIGKILL at given moments. A script of its own.

It imports torch once and forks before anything is computed, since a start takes longer than a run.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import sklearn.metrics  # noqa: F401 (here, once, and not in each child)

import compose.train.trainer  # noqa: F401
from compose.errors import ComposeError
from compose.recipes import folder, runner
from compose.recipes.console import Console


class Killer:
    """Kills the process at the n-th of some moments.

    Args:
        moment: `step`, or `replace`, `fsync`, `measure` and `settle` (just before), or `replaced` and `settled` (just
            after), with a number.
    """

    def __init__(self, moment: str) -> None:
        kind, _, number = moment.partition(":")
        self.left = int(number or 1)
        self.kind = kind
        if kind in ("replace", "replaced"):
            os.replace = self._around(os.replace, kind == "replaced")  # type: ignore[assignment]
        elif kind == "fsync":
            os.fsync = self._around(os.fsync, False)
        elif kind == "measure":
            runner._measure = self._around(runner._measure, False)
        elif kind in ("settle", "settled"):
            folder.settle = self._around(folder.settle, kind == "settled")

    def count(self) -> None:
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)

    def _around(self, function: Callable[..., Any], after: bool) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if not after:
                self.count()
            result = function(*args, **kwargs)
            if after:
                self.count()
            return result

        return call


class Watched(Console):
    """A silent console that tells of steps."""

    def __init__(self, killer: Killer | None) -> None:
        super().__init__(quiet=True)
        self.killer = killer

    def training(self, name: str) -> Any:
        def advance(done: int, total: int, loss: float) -> None:
            if self.killer is not None and self.killer.kind == "step":
                self.killer.count()

        return nullcontext(advance)


def ends(recipe: Path, out: Path, moment: str | None, resume: bool) -> int:
    """How a run ends in a child: 0, or the number of the signal that killed it."""
    pid = os.fork()
    if pid:
        _, status = os.waitpid(pid, 0)
        return os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    code = 70
    try:
        killer = Killer(moment) if moment else None
        runner.run(recipe, out=out, console=Watched(killer), resume=resume)
        code = 0
    except ComposeError as error:
        print(error, file=sys.stderr)
        code = 2
    finally:
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    recipe, place, chains = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
    found: dict[str, list[int]] = {}
    for name, moments in chains.items():
        codes = [ends(recipe, place / name, moment, index > 0) for index, moment in enumerate([*moments, None])]
        found[name] = codes
    print(json.dumps(found))


if __name__ == "__main__":
    main()
