"""The plots of a report, by matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from compose.recipes.aggregate import Estimate
from compose.recipes.report.page import INK, Figure
from compose.recipes.report.svg import drawn

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#8c6d5b", "#7f7f7f")
"""Okabe and Ito's first, which colour-blind people can tell apart; all are legible on white and on black."""
MARKERS = "osD^vPX*"
WIDTH = 9.0
"""Inches that matrices beside each other may take."""
SHOWN_NUMBERS = 24
"""A matrix with more columns than this has no numbers in its cells."""


class Line(NamedTuple):
    """Estimates along an axis, one for each place."""

    label: str
    places: Sequence[float]
    values: Sequence[Estimate]


class Matrix(NamedTuple):
    """Numbers by row and column; None where there is nothing."""

    title: str
    rows: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Sequence[float | None]]


def curves(
    name: str,
    alt: str,
    panels: Mapping[str, Sequence[Line]],
    xlabel: str,
    scale: Literal["whole", "linear", "log"] = "whole",
) -> Figure:
    """Lines over a common axis, a panel for each quantity, with bands for the intervals of means.

    Args:
        name: of the figure.
        alt: what it shows.
        panels: the lines of each panel, by the name of its axis.
        xlabel: what the common axis is.
        scale: of that axis; `whole` counts things, so that only whole numbers are marked.
    """

    def draw(make: Any) -> Any:
        figure = make(figsize=(7.6, 0.6 + 2.6 * len(panels)), layout="constrained")
        axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)
        for (axis,), (ylabel, lines) in zip(axes, panels.items(), strict=True):
            for number, line in enumerate(lines):
                _line(axis, line, number)
            axis.set_ylabel(ylabel)
            if all(found.mean >= 0 for line in lines for found in line.values):
                low, high = axis.get_ylim()
                axis.set_ylim(bottom=max(low, -0.03 * high))  # what counts up from 0 has no intervals below it
            axis.grid(color=INK, alpha=0.15, linewidth=0.6)
            if any(line.label for line in lines):
                axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
        last = axes[-1][0]
        last.set_xlabel(xlabel)
        if scale == "log":
            last.set_xscale("log")
        elif scale == "whole":
            last.xaxis.get_major_locator().set_params(integer=True)
        return figure

    return Figure(name, drawn(name, draw), alt)


def _line(axis: Any, line: Line, number: int) -> None:
    colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
    means = [found.mean for found in line.values]
    axis.plot(line.places, means, marker=marker, markersize=4, color=colour, label=line.label or None)
    if all(found.half is not None for found in line.values):
        lows, highs = [found.low for found in line.values], [found.high for found in line.values]
        axis.fill_between(line.places, lows, highs, color=colour, alpha=0.18, linewidth=0)


def bars(name: str, alt: str, rows: Mapping[str, Sequence[tuple[str, Estimate]]], xlabel: str) -> Figure:
    """A dot for each estimate with its interval, in groups one below the other.

    Args:
        name: of the figure.
        alt: what it shows.
        rows: by group, names and estimates; a name has one colour throughout.
        xlabel: of the axis.
    """
    names = list(dict.fromkeys(label for row in rows.values() for label, _ in row))

    def draw(make: Any) -> Any:
        count = sum(len(row) for row in rows.values())
        figure = make(figsize=(7.6, 1.0 + 0.26 * count + 0.14 * len(rows)), layout="constrained")
        axis = figure.subplots()
        place, ticks = 0.0, []
        for row in rows.values():
            ticks.append(place + (len(row) - 1) / 2)
            for label, found in row:
                number = names.index(label)
                axis.errorbar(
                    [found.mean], [place], xerr=[[found.half or 0.0]] * 2, capsize=3 if found.half else 0,
                    fmt=MARKERS[number % len(MARKERS)], color=COLOURS[number % len(COLOURS)], markersize=5,
                )  # fmt: skip
                place += 1
            place += 0.6
        axis.set_yticks(ticks, list(rows))
        axis.invert_yaxis()
        axis.set_xlabel(xlabel)
        axis.grid(axis="x", color=INK, alpha=0.15, linewidth=0.6)
        if names != [""]:
            handles = [
                axis.plot([], [], MARKERS[n % len(MARKERS)], color=COLOURS[n % len(COLOURS)], label=label)[0]
                for n, label in enumerate(names)
            ]
            axis.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        return figure

    return Figure(name, drawn(name, draw), alt)


def heat_maps(
    name: str, alt: str, matrices: Sequence[Matrix], share: bool, xlabel: str = "", ylabel: str = ""
) -> Figure:
    """Matrices beside and below each other.

    Args:
        name: of the figure.
        alt: what it shows.
        matrices: what to draw.
        share: whether the numbers are shares from 0 to 1; else they are counts, coloured by their share of a row.
        xlabel: what columns are.
        ylabel: what rows are.
    """

    def draw(make: Any) -> Any:
        columns = max(len(matrix.columns) for matrix in matrices)
        longest = max(len(label) for matrix in matrices for label in matrix.rows)
        width = max(2.2, 1.0 + 0.08 * longest + 0.62 * columns)
        across = max(1, min(len(matrices), int(WIDTH / width)))
        rows = [matrices[start : start + across] for start in range(0, len(matrices), across)]
        names = max((matrix.columns for matrix in matrices), key=lambda columns: max(map(len, columns)))
        below = 0.055 * max(map(len, names)) if _crowded(names) else 0.0  # slanted names reach down
        heights = [max(1.0, 0.34 * max(len(matrix.rows) for matrix in row)) + 0.9 + below for row in rows]
        figure = make(figsize=(max(4.5, across * width), sum(heights)), layout="constrained")
        axes = figure.subplots(len(rows), across, squeeze=False, gridspec_kw={"height_ratios": heights})
        for row, places in zip(rows, axes, strict=True):
            for number, axis in enumerate(places):
                if number >= len(row):
                    axis.set_axis_off()
                    continue
                _heat_map(axis, row[number], share)
                axis.set_xlabel(xlabel)
                axis.set_ylabel(ylabel)
        return figure

    return Figure(name, drawn(name, draw), alt)


def _heat_map(axis: Any, matrix: Matrix, share: bool) -> None:
    shares = [_shares(row, share) for row in matrix.values]
    cells = [[float("nan") if value is None else value for value in row] for row in shares]
    axis.pcolormesh(cells, cmap="Blues", vmin=0, vmax=1, edgecolors="face", linewidth=0.5)
    axis.invert_yaxis()
    axis.set_title(matrix.title, fontsize=10)
    slanted = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if _crowded(matrix.columns) else {}
    axis.set_xticks([place + 0.5 for place in range(len(matrix.columns))], matrix.columns, **slanted)
    axis.set_yticks([place + 0.5 for place in range(len(matrix.rows))], matrix.rows)
    axis.tick_params(length=0)
    for spine in axis.spines.values():
        spine.set_visible(False)
    if len(matrix.columns) > SHOWN_NUMBERS:
        return
    for y, (row, strengths) in enumerate(zip(matrix.values, shares, strict=True)):
        for x, (value, strength) in enumerate(zip(row, strengths, strict=True)):
            if value is not None and strength is not None:
                shown = f"{value:.2f}" if share else f"{value:.0f}"
                colour = "#ffffff" if strength > 0.55 else "#111111"  # cells have their own ground, light or dark page
                axis.text(x + 0.5, y + 0.5, shown, ha="center", va="center", fontsize=8.5, color=colour)


def _crowded(labels: Sequence[str]) -> bool:
    return max(map(len, labels), default=0) > 8


def _shares(row: Sequence[float | None], share: bool) -> list[float | None]:
    if share:
        return list(row)
    total = sum(value or 0.0 for value in row)
    return [None if value is None else value / total if total else 0.0 for value in row]
