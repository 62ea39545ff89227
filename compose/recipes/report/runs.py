"""Finished runs, as reports read them: from their folders alone, without a backbone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from compose.errors import FileError, Problem, RecipeError
from compose.recipes.aggregate import Estimate, Metrics, difference, estimate, mean_of
from compose.recipes.loader import load_file
from compose.recipes.manifest import MARK, read_manifest, seed_folder


@dataclass(frozen=True)
class Run:
    """What a run left.

    Args:
        name: what the report calls it.
        folder: where it belongs, as it was named.
        recipe: what `resolved.yaml` says, as plain data.
        seeds: the `metrics.json` of each of its seeds.
        facts: what its `run.json` says.
    """

    name: str
    folder: Path
    recipe: Mapping[str, Any]
    seeds: tuple[Metrics, ...]
    facts: Mapping[str, Any]

    @property
    def first(self) -> Metrics:
        """The results of its first seed."""
        return self.seeds[0]

    @property
    def main(self) -> Mapping[str, str]:
        """The main metric of each task."""
        found: Mapping[str, str] = self.first["main"]
        return found


@dataclass(frozen=True)
class System:
    """A system of a run.

    Args:
        label: what the report calls it.
        run: whose it is.
        name: in that run.
    """

    label: str
    run: Run
    name: str

    def values(self, task: str | None) -> dict[int, float]:
        """Its main score of a task by seed; of None the mean over tasks."""
        found = {metrics["seed"]: mean_of(metrics, self.name, task) for metrics in self.run.seeds}
        return {seed: value for seed, value in found.items() if value is not None}

    def score(self, task: str | None) -> Estimate | None:
        """The estimate of its main score of a task, or of the mean; None if it has none."""
        values = self.values(task)
        return estimate(values.values()) if values else None

    def above(self, other: System, task: str | None) -> Estimate | None:
        """By how much it is above another, paired by seed; None where no seed has both."""
        return difference(self.values(task), other.values(task))


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Runs to be reported together, each under a name of its own.

    Raises:
        FileError: folders that are no runs, incomplete or damaged ones, and runs whose scores cannot be set side by
            side; all of them at once.
    """
    found: list[Run] = []
    problems: list[Problem] = []
    for folder in dict.fromkeys(folders):
        try:
            found.append(read_run(folder))
        except FileError as error:
            problems += error.problems
    problems += _apart(found)
    if problems:
        raise FileError(problems)
    return _named(found)


def read_run(folder: Path) -> Run:
    """The run in a folder.

    Raises:
        FileError: there is none, it is not complete, or a file of it is damaged.
    """
    manifest = read_complete(folder)
    if "members" in manifest:
        hint = str(folder / manifest["members"][0])
        raise FileError("holds a sweep, which is reported alone; its members are runs", where=str(folder), hint=hint)
    places = [folder / seed_folder(seed) for seed in manifest.get("seeds") or ()] or [folder]
    _check(folder, manifest, [place / "metrics.json" for place in places])
    metrics = tuple(_metrics(place / "metrics.json") for place in places)
    try:
        recipe = load_file(folder / "resolved.yaml").data
    except RecipeError as error:
        raise FileError([replace(problem, hint="") for problem in error.problems]) from None
    return Run(str(manifest["recipe"]), folder, recipe if isinstance(recipe, dict) else {}, metrics, manifest)


def read_complete(folder: Path) -> dict[str, Any]:
    """The manifest of a complete run.

    Raises:
        FileError: there is none, or it is not complete.
    """
    manifest = read_manifest(folder) if folder.is_dir() else None
    if manifest is not None and manifest.get("status") == "complete":
        return manifest
    partial = folder.with_name(f"{folder.name}.partial")
    if (folder / MARK).exists() or manifest is not None:
        raise FileError("the run is not complete", where=str(folder), why=_mark(folder))
    if (partial / MARK).exists():
        raise FileError("the run is not complete", where=str(folder), why=_mark(partial))
    if not folder.exists():
        raise FileError("there is no such folder", where=str(folder))
    raise FileError("is no run", where=str(folder), hint="the folder that `compose run` names at its end")


def _mark(folder: Path) -> str:
    try:
        return (folder / MARK).read_text("utf-8").strip()[:200]
    except (OSError, UnicodeDecodeError):
        return ""


def _check(folder: Path, manifest: Mapping[str, Any], files: Sequence[Path]) -> None:
    """FileError: a file that reports read is not what the run wrote."""
    digests = manifest.get("sha256", {})
    for path in [folder / "resolved.yaml", *files]:
        name = path.relative_to(folder).as_posix()
        try:
            found = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise FileError(f"cannot be read: {error.strerror or error}", where=str(path)) from None
        if digests.get(name, found) != found:
            raise FileError("is not what the run wrote", where=str(path), why="its sha256 is not that of run.json")


KEYS = ("recipe", "seed", "stages", "main", "scores", "means")
"""What every `metrics.json` has; what else there is, reports show."""


def _metrics(path: Path) -> Metrics:
    try:
        found = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise FileError(f"is damaged: {error}", where=str(path)) from None
    missing = [key for key in KEYS if not isinstance(found, dict) or key not in found]
    if missing:
        raise FileError(f"is damaged: there is no '{missing[0]}' in it", where=str(path))
    return dict(found)


def _apart(runs: Sequence[Run]) -> list[Problem]:
    """Why runs' scores cannot be set side by side."""
    problems = []
    for run in runs[1:]:
        first = runs[0]
        for task, metric in run.main.items():
            other = first.main.get(task, metric)
            if other != metric:
                what = f"task '{task}' is measured by {metric}, but by {other} in {first.folder}"
                problems.append(Problem(what, where=str(run.folder), hint="evaluate.metrics"))
        if set(run.main) != set(first.main):
            what = f"has other tasks ({_listed(run)}) than {first.folder} ({_listed(first)})"
            hint = "runs of the same tasks, or a report for each"
            problems.append(Problem(what, where=str(run.folder), hint=hint))
    return problems


def _listed(run: Run) -> str:
    return ", ".join(run.main) or "none"


def _named(runs: Sequence[Run]) -> list[Run]:
    """The runs under names that tell them apart: of their recipes, else of their folders, else the folders."""
    choices = (
        [run.name for run in runs],
        [run.folder.resolve().name for run in runs],
        [str(run.folder) for run in runs],
    )
    names = next((names for names in choices if len(set(names)) == len(runs)), choices[-1])
    return [replace(run, name=name) for run, name in zip(runs, names, strict=True)]


def systems_of(runs: Sequence[Run]) -> list[System]:
    """All systems of some runs; with several runs, the run's name stands before a system's."""
    return [
        System(name if len(runs) == 1 else f"{run.name}: {name}", run, name)
        for run in runs
        for name in run.first["scores"]
    ]
