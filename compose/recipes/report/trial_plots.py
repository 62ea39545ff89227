"""The plot of a sweep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compose.recipes.aggregate import Estimate
from compose.recipes.report import figures
from compose.recipes.report.figures import Line
from compose.recipes.report.page import Figure
from compose.recipes.report.scores import percents
from compose.recipes.report.trials import Sweep, grid_of, told

MOST_LINES = 8
SPAN = 20.0
"""Values that differ by more than this factor are drawn on a logarithmic axis."""


def plot(sweep: Sweep) -> Figure:
    """Scores along the first key whose values are numbers, a line for each choice of the others; else a dot each."""
    systems = sweep.systems()
    for key in sweep.keys:
        places = sorted({trial.values[key] for trial in sweep.trials}) if _all_numbers(sweep, key) else []
        lines = _lines(sweep, key) if len(places) > 1 else []
        if lines and len(lines) <= MOST_LINES:
            wide = places[0] > 0 and places[-1] / places[0] >= SPAN
            return figures.curves(
                "sweep", f"Scores by {key}", {"mean score, %": lines}, key, "log" if wide else "linear"
            )
    grid = grid_of(sweep, systems[0]) if len(systems) == 1 else None
    if grid is not None and len(grid.rows) > 1:
        rows = {
            row: [(column, percents(found)) for column in grid.columns if (found := grid.score(row, column))]
            for row in grid.rows
        }
    else:
        rows = {
            f"{trial.number}: {trial.told}"[:48]: [(name, percents(score)) for name, score in scores.items()]
            for trial in sweep.trials
            if (scores := sweep.scores(trial))
        }
    return figures.bars("sweep", "Scores of each member", rows, "mean score, %")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _all_numbers(sweep: Sweep, key: str) -> bool:
    return all(_is_number(trial.values[key]) for trial in sweep.trials)


def _lines(sweep: Sweep, key: str) -> list[Line]:
    found: dict[str, dict[float, Estimate]] = {}
    for trial in sweep.trials:
        for name, score in sweep.scores(trial).items():
            label = _label(trial.values, key, name if len(sweep.systems()) > 1 else "")
            found.setdefault(label or name, {})[float(trial.values[key])] = percents(score)
    return [Line(label, sorted(points), [points[place] for place in sorted(points)]) for label, points in found.items()]


def _label(values: Mapping[str, Any], key: str, system: str) -> str:
    others = ", ".join(f"{name}={told(value)}" for name, value in values.items() if name != key)
    return ", ".join(part for part in (system, others) if part)
