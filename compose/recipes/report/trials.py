"""The members of a sweep as reports read them, and the sets of them that belong together."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

from compose.errors import FileError
from compose.recipes.aggregate import Estimate, difference, estimate
from compose.recipes.report.runs import Run, System, read_complete, read_run, systems_of


@dataclass(frozen=True)
class Trial:
    """A member that was tried.

    Args:
        name: of its folder.
        values: by key, what is its own.
        run: what it left; None if it failed.
        error: why it failed.
    """

    name: str
    values: Mapping[str, Any]
    run: Run | None
    error: str = ""

    @property
    def number(self) -> str:
        """Its number in the sweep."""
        return self.name.split("-", 1)[0]

    @property
    def told(self) -> str:
        """What is its own, in words."""
        return " ".join(f"{key}={told(value)}" for key, value in self.values.items())

    def systems(self) -> list[System]:
        """Its systems; none if it failed."""
        return systems_of([self.run]) if self.run else []


@dataclass(frozen=True)
class Sweep:
    """A finished sweep.

    Args:
        name: of the recipe.
        folder: where it belongs.
        trials: its members.
        facts: what its `run.json` says.
    """

    name: str
    folder: Path
    trials: tuple[Trial, ...]
    facts: Mapping[str, Any]

    @property
    def keys(self) -> list[str]:
        """What varies."""
        return list(self.trials[0].values)

    def systems(self) -> list[str]:
        """The systems of its members."""
        return list(dict.fromkeys(name for trial in self.trials if trial.run for name in trial.run.first["scores"]))

    def tasks(self) -> list[str]:
        """The tasks that its members are scored by."""
        return list(dict.fromkeys(task for trial in self.trials if trial.run for task in trial.run.main))

    def scores(self, trial: Trial) -> dict[str, Estimate]:
        """The mean score of each system of a member."""
        found = {system.name: system.score(None) for system in trial.systems()}
        return {name: score for name, score in found.items() if score is not None}

    def runs(self) -> list[Run]:
        """What its members left, each under what is its own."""
        return [replace(trial.run, name=trial.told) for trial in self.trials if trial.run]


def read_sweep(folder: Path) -> Sweep:
    """The sweep in a folder.

    Raises:
        FileError: there is none, or a file of it is damaged.
    """
    facts = read_complete(folder)
    path = folder / "metrics.json"
    try:
        members = json.loads(path.read_text("utf-8"))["members"]
        told = [(str(member["name"]), dict(member["values"]), str(member.get("error", ""))) for member in members]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FileError(f"is damaged: {error}", where=str(path)) from None
    trials = [Trial(name, values, None if error else read_run(folder / name), error) for name, values, error in told]
    return Sweep(str(facts["recipe"]), folder, tuple(trials), facts)


def told(value: Any) -> str:
    """A swept value for people.

    >>> told(1e-4), told("lora"), told([0, 1])
    ('0.0001', 'lora', '[0, 1]')
    """
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


@dataclass(frozen=True)
class Grid:
    """A sweep as a table: one key's choices as columns, those of the other keys as rows.

    Args:
        key: whose choices are the columns.
        columns: these choices.
        rows: what the others chose.
        cells: the mean score by seed of one system, by row and column.
    """

    key: str
    columns: tuple[str, ...]
    rows: tuple[str, ...]
    cells: Mapping[tuple[str, str], Mapping[int, float]]

    def values(self, row: str | None, column: str) -> Mapping[int, float]:
        """The scores in a row and column by seed; of None the means over rows, of the seeds that all rows have."""
        if row is not None:
            return self.cells.get((row, column), {})
        every = [self.cells.get((row, column), {}) for row in self.rows]
        return {seed: fmean(cell[seed] for cell in every) for seed in every[0] if all(seed in cell for cell in every)}

    def score(self, row: str | None, column: str) -> Estimate | None:
        """The estimate of what `values` gives; None where it is nothing."""
        found = self.values(row, column)
        return estimate(found.values()) if found else None

    def above(self, column: str, other: str, row: str | None) -> Estimate | None:
        """By how much a column is above another in a row, or for None in the mean of all, paired by seed."""
        return difference(self.values(row, column), self.values(row, other))

    def pairs(self) -> list[tuple[str, str]]:
        """Each two columns."""
        return [(second, first) for first, second in combinations(self.columns, 2)]


def grid_of(sweep: Sweep, system: str) -> Grid | None:
    """A sweep with the choices of its last key that has names as columns; None where no key has.

    Args:
        sweep: the sweep.
        system: whose scores.
    """
    named = [key for key in sweep.keys if all(isinstance(trial.values[key], str) for trial in sweep.trials)]
    if not named:
        return None
    key = named[-1]
    cells = {}
    for trial in sweep.trials:
        row = " ".join(told(value) for name, value in trial.values.items() if name != key)
        for found in trial.systems():
            if found.name == system:
                cells[row, trial.values[key]] = found.values(None)
    rows, columns = (tuple(dict.fromkeys(place[axis] for place in cells)) for axis in (0, 1))
    return Grid(key, columns, rows, cells)


def trained_parameters(run: Run) -> int:
    """How many parameters its stages train; stages that train the same count once."""
    stages: Sequence[Mapping[str, Any]] = run.first["stages"]
    return sum({(stage["expression"], stage["regime"]): stage["trained_parameters"] for stage in stages}.values())
