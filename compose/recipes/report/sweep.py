"""The report of a sweep: all members in one table and one plot."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compose.errors import FileError
from compose.recipes.aggregate import Estimate
from compose.recipes.report import figures
from compose.recipes.report.figures import Line
from compose.recipes.report.page import Block, Code, Figure, Items, Mono, Page, Section, rows_of, text
from compose.recipes.report.runs import Run, read_complete, read_run, systems_of
from compose.recipes.report.scores import percent, percents

MOST_LINES = 8
SPAN = 20.0
"""Values that differ by more than this factor are drawn on a logarithmic axis."""


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

    def systems(self) -> list[str]:
        """The systems of its members."""
        return list(dict.fromkeys(name for trial in self.trials if trial.run for name in trial.run.first["scores"]))

    def scores(self, trial: Trial) -> dict[str, Estimate]:
        """The mean score of each system of a member."""
        found = {system.name: system.score(None) for system in systems_of([trial.run])} if trial.run else {}
        return {name: score for name, score in found.items() if score is not None}


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


def sweep_page(sweep: Sweep, plots: bool = True) -> Page:
    """The report of a sweep."""
    keys = list(sweep.trials[0].values)
    failed = sum(trial.run is None for trial in sweep.trials)
    about = f"{len(sweep.trials)} members" + (f", {failed} of which failed" if failed else "")
    lead = text("A sweep over ", *_joined(keys), f": {about}.")
    warned = [text(str(sweep.facts["smoke"]).capitalize() + ".")] if "smoke" in sweep.facts else []
    sections = (_results(sweep, keys, plots), _failed(sweep), _again(sweep))
    return Page(sweep.name, (*warned, lead), sections)


def _joined(keys: Sequence[str]) -> list[Mono | str]:
    found: list[Mono | str] = []
    for key in keys:
        found += [", ", Mono(key)] if found else [Mono(key)]
    return found


def _results(sweep: Sweep, keys: Sequence[str], plots: bool) -> Section:
    systems = sweep.systems()
    rows = []
    for trial in sweep.trials:
        scores = sweep.scores(trial)
        seconds = f"{trial.run.facts.get('seconds', 0):.0f}" if trial.run else ""
        shown = [percent(scores.get(name)) for name in systems] if trial.run else ["failed", *[""] * (len(systems) - 1)]
        rows.append([_number(trial), *(told(trial.values[key]) for key in keys), *shown, seconds])
    blocks: list[Block] = [
        text("Means over tasks on the test part, in percent."),
        rows_of(["member", *keys, *(systems or ["score"]), "seconds"], rows),
    ]
    best = [
        (f"{system}: ", _number(trial), " (", Mono(_values(trial)), f"), {percent(score)}")
        for system in systems
        for trial, score in [_best(sweep, system)]
    ]
    if best:
        note = "The best member by each system. A score that was chosen for being the best is too good: judge it on "
        blocks += [text(note + "data that had no part in the choice."), Items(tuple(best))]
    if plots and systems:
        blocks.append(_plot(sweep, keys, systems))
    return Section("Results", tuple(blocks))


def _best(sweep: Sweep, system: str) -> tuple[Trial, Estimate]:
    found = [(trial, score) for trial in sweep.trials if (score := sweep.scores(trial).get(system))]
    return max(found, key=lambda pair: pair[1].mean)


def _number(trial: Trial) -> str:
    return trial.name.split("-", 1)[0]


def told(value: Any) -> str:
    """A swept value for people.

    >>> told(1e-4), told("lora"), told([0, 1])
    ('0.0001', 'lora', '[0, 1]')
    """
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _values(trial: Trial) -> str:
    return " ".join(f"{key}={told(value)}" for key, value in trial.values.items())


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _plot(sweep: Sweep, keys: Sequence[str], systems: Sequence[str]) -> Figure:
    """Scores along the first key whose values are numbers, a line for each choice of the others; else a dot each."""
    for key in keys:
        places = sorted({trial.values[key] for trial in sweep.trials}) if _all_numbers(sweep, key) else []
        lines = _lines(sweep, key, systems) if len(places) > 1 else []
        if lines and len(lines) <= MOST_LINES:
            wide = places[0] > 0 and places[-1] / places[0] >= SPAN
            return figures.curves(
                "sweep", f"Scores by {key}", {"mean score, %": lines}, key, "log" if wide else "linear"
            )
    rows = {
        f"{_number(trial)}: {_values(trial)}"[:48]: [(name, percents(score)) for name, score in scores.items()]
        for trial in sweep.trials
        if (scores := sweep.scores(trial))
    }
    return figures.bars("sweep", "Scores of each member", rows, "mean score, %")


def _all_numbers(sweep: Sweep, key: str) -> bool:
    return all(_is_number(trial.values[key]) for trial in sweep.trials)


def _lines(sweep: Sweep, key: str, systems: Sequence[str]) -> list[Line]:
    found: dict[str, dict[float, Estimate]] = {}
    for trial in sweep.trials:
        others = ", ".join(f"{name}={told(value)}" for name, value in trial.values.items() if name != key)
        for name, score in sweep.scores(trial).items():
            label = ", ".join(part for part in (name if len(systems) > 1 or not others else "", others) if part)
            found.setdefault(label, {})[float(trial.values[key])] = percents(score)
    return [Line(label, sorted(points), [points[place] for place in sorted(points)]) for label, points in found.items()]


def _failed(sweep: Sweep) -> Section:
    rows = [
        (f"{_number(trial)} (", Mono(_values(trial)), f"): {trial.error}")
        for trial in sweep.trials
        if trial.run is None
    ]
    return Section("Failed", (Items(tuple(rows)),) if rows else ())


def _again(sweep: Sweep) -> Section:
    done = [trial for trial in sweep.trials if trial.run]
    words = [word for override in sweep.facts.get("overrides") or () for word in ("--set", override)]
    blocks: list[Block] = [
        text("The whole sweep:"),
        Code(f"$ {shlex.join(['compose', 'run', 'RECIPE', *words])}"),
    ]
    if done:
        lines = [f"$ compose run {shlex.quote(str(sweep.folder / trial.name / 'resolved.yaml'))}" for trial in done]
        blocks += [text("A member, and a report of it:"), Code(lines[0])]
        blocks.append(Code(f"$ compose report {shlex.quote(str(sweep.folder / done[0].name))}"))
    return Section("Do it again", tuple(blocks))
