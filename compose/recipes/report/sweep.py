"""The report of a sweep: all members in one table and one plot."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from compose.recipes.aggregate import Estimate
from compose.recipes.report import findings, trial_tables
from compose.recipes.report.costs import asked
from compose.recipes.report.page import Block, Code, Items, Mono, Page, Section, Sub, rows_of, text
from compose.recipes.report.scores import percent, points
from compose.recipes.report.trial_plots import plot
from compose.recipes.report.trials import Grid, Sweep, Trial, grid_of


def sweep_page(sweep: Sweep, plots: bool = True) -> Page:
    """The report of a sweep."""
    failed = sum(trial.run is None for trial in sweep.trials)
    about = f"{len(sweep.trials)} members" + (f", {failed} of which failed" if failed else "")
    lead = text("A sweep over ", *_joined(sweep.keys), f": {about}.")
    runs = sweep.runs()
    sections = (
        _results(sweep, plots),
        *([_grid(sweep, system) for system in sweep.systems()]),
        findings.curve(runs, plots, findings.DROP),
        findings.curve(runs, plots, findings.FUSION),
        findings.fusions(runs, plots, False),
        _failed(sweep),
        _again(sweep),
    )
    return Page(sweep.name, (*findings.caution(sweep.facts), lead), sections)


def _joined(keys: Sequence[str]) -> list[Mono | str]:
    found: list[Mono | str] = []
    for key in keys:
        found += [", ", Mono(key)] if found else [Mono(key)]
    return found


def _results(sweep: Sweep, plots: bool) -> Section:
    blocks: list[Block] = [text(trial_tables.LEAD), trial_tables.results(sweep)]
    best = [
        (f"{system}: ", trial.number, " (", Mono(trial.told), f"), {percent(score)}")
        for system in sweep.systems()
        for trial, score in [_best(sweep, system)]
    ]
    if best:
        note = "The best member by each system. A score that was chosen for being the best is too good: judge it on "
        blocks += [text(note + "data that had no part in the choice."), Items(tuple(best))]
    if plots and sweep.systems():
        blocks.append(plot(sweep))
    return Section("Results", tuple(blocks))


def _best(sweep: Sweep, system: str) -> tuple[Trial, Estimate]:
    found = [(trial, score) for trial in sweep.trials if (score := sweep.scores(trial).get(system))]
    return max(found, key=lambda pair: pair[1].mean)


def _grid(sweep: Sweep, system: str) -> Section:
    """What the choices of one key differ by, in each choice of the others and in their mean."""
    title = f"Differences: {system}" if len(sweep.systems()) > 1 else "Differences"
    grid = grid_of(sweep, system)
    if grid is None or len(grid.columns) < 2:
        return Section(title, ())
    blocks: list[Block] = []
    places: list[tuple[str | None, str]] = [(None, "mean")]
    if len(grid.rows) > 1:
        places = [*((row, row) for row in grid.rows), (None, "mean")]
        rows = [[label, *(percent(grid.score(row, column)) for column in grid.columns)] for row, label in places]
        blocks.append(rows_of(["", *grid.columns], rows))
    rows = [
        [f"{column} - {other}", *(points(grid.above(column, other, row)) for row, _ in places)]
        for column, other in grid.pairs()
    ]
    blocks += [
        Sub(f"Each two of {grid.key}"),
        text(_note(grid)),
        rows_of(["", *(label for _, label in places)], rows),
    ]
    return Section(title, tuple(blocks))


def _note(grid: Grid) -> str:
    """How the differences are to be read."""
    note = "Of the mean scores, in percentage points"
    if max(map(len, grid.cells.values())) < 2:
        return note + ", of one seed: by how much they would vary is not known."
    return (
        note
        + ", paired by seed; with * the 95 % interval does not hold 0, which is not corrected for many comparisons."
    )


def _failed(sweep: Sweep) -> Section:
    rows = [(f"{trial.number} (", Mono(trial.told), f"): {trial.error}") for trial in sweep.trials if trial.run is None]
    return Section("Failed", (Items(tuple(rows)),) if rows else ())


def _again(sweep: Sweep) -> Section:
    done = [trial for trial in sweep.trials if trial.run]
    blocks: list[Block] = [
        text("The whole sweep:"),
        Code(f"$ {shlex.join(['compose', 'run', 'RECIPE', *asked(sweep.facts)])}"),
    ]
    if done:
        lines = [f"$ compose run {shlex.quote(str(sweep.folder / trial.name / 'resolved.yaml'))}" for trial in done]
        blocks += [text("A member, and a report of it:"), Code(lines[0])]
        blocks.append(Code(f"$ compose report {shlex.quote(str(sweep.folder / done[0].name))}"))
    return Section("Do it again", tuple(blocks))
