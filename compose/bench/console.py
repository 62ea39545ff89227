"""What a measurement says while it works: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from compose.bench.measure import OnStep
from compose.bench.tables import contestant_table, remarks, target_table


@contextmanager
def progress(steps: int, stream: TextIO | None = None) -> Iterator[OnStep]:
    """Shows how far a measurement is; gives what is to be told of each step.

    Args:
        steps: how many there will be.
        stream: where to; standard error by default, so that the results can be redirected.
    """
    out = stream or sys.stderr
    if not out.isatty():

        def line(case: str, contestant: str, doing: str) -> None:
            print(f"{case}: {contestant} {doing}", file=out, flush=True)

        yield line
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=RichConsole(file=out)) as bar:
        task, done = bar.add_task("", total=steps), 0

        def advance(case: str, contestant: str, doing: str) -> None:
            nonlocal done
            bar.update(task, completed=done, description=f"{case}: {contestant} {doing}")
            done += 1

        yield advance
        bar.update(task, completed=steps, description="done")


def results(case: dict[str, Any]) -> str:
    """A case's figures for the terminal."""
    title = f"{case['name']}: {case['shows']}"
    parts = [title, "-" * len(title), contestant_table(case), "", *remarks(case)]
    if case["targets"]:
        parts += ["", target_table(case)]
    return "\n".join(parts) + "\n"
