"""What a run says while it works: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

Advance = Callable[[int, int, float], None]
"""Told of steps done, steps in all, and the loss."""

LINES = 4
"""Plain lines for a stage of training."""


class Console:
    """Says what happens.

    Args:
        stream: where to.
        quiet: say nothing.
    """

    def __init__(self, stream: TextIO | None = None, quiet: bool = False) -> None:
        self.stream = stream or sys.stdout
        self.quiet = quiet
        self.terminal = self.stream.isatty()

    def say(self, text: str = "") -> None:
        """A line, or several."""
        if not self.quiet:
            print(text, file=self.stream, flush=True)

    def heading(self, text: str) -> None:
        """A line that begins a part."""
        self.say(f"\n{text}\n{'-' * len(text)}")

    @contextmanager
    def training(self, name: str) -> Iterator[Advance]:
        """Shows how a stage of training goes on; gives what is to be told of each step."""
        if self.quiet:
            yield lambda done, total, loss: None
        elif self.terminal:
            columns = (
                TextColumn(name),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("loss {task.fields[loss]:.3f}"),
            )
            with Progress(*columns, console=RichConsole(file=self.stream)) as progress:
                task = progress.add_task(name, total=None, loss=0.0)
                yield lambda done, total, loss: progress.update(task, completed=done, total=total, loss=loss)
        else:
            yield self._line

    def _line(self, done: int, total: int, loss: float) -> None:
        if done * LINES // total > (done - 1) * LINES // total:
            self.say(f"  step {done} of {total}, loss {loss:.3f}")


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table that is readable as it is: numbers to the right.

    >>> print(table(["task", "score"], [["topic", "0.9"], ["tone", "0.85"]]))
    | task  | score |
    | ----- | ----: |
    | topic |   0.9 |
    | tone  |  0.85 |
    """
    widths = [max(3, *(len(row[column]) for row in [header, *rows])) for column in range(len(header))]

    def line(row: list[str]) -> str:
        cells = [
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return f"| {' | '.join(cells)} |"

    rule = ["-" * width if column == 0 else f"{'-' * (width - 1)}:" for column, width in enumerate(widths)]
    return "\n".join([line(header), line(rule), *map(line, rows)])
