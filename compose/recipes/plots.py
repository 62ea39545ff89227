"""The plots of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from compose.train.extras import require

DPI = 150
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
"""Okabe and Ito's, which colour-blind people can tell apart."""


def drop_curve(path: Path, curve: Sequence[Mapping[str, Any]], main: Mapping[str, str]) -> None:
    """Score and time against the number of first layers without adapters, one above the other.

    Args:
        path: the file to write.
        curve: a point for each number of layers.
        main: the score to show, by task.
    """
    figure, (above, below) = _figure((7.6, 5.6), 2, sharex=True, height_ratios=(3, 2))
    layers = [point["first"] for point in curve]
    for index, task in enumerate(curve[0]["scores"]):
        values = [100 * point["scores"][task][main[task]] for point in curve]
        above.plot(layers, values, marker="o", label=f"{task} ({main[task]})", color=COLOURS[index % len(COLOURS)])
    above.plot(layers, [100 * point["mean"] for point in curve], "--", color="black", label="mean")
    above.set_ylabel("score, %")
    above.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    below.plot(layers, [point["milliseconds"] for point in curve], marker="s", color="black")
    below.set_ylabel("time of a batch, ms")
    below.set_ylim(bottom=0)
    below.set_xlabel("adapters dropped from so many first layers")
    below.set_xticks(layers)
    _save(figure, path)


def fusion_attention(path: Path, found: Mapping[str, Mapping[str, Any]]) -> None:
    """Heat maps of the weights that fusions give their adapters.

    The first has a row for each fusion; then each fusion has one with a row for each layer.

    Args:
        path: the file to write.
        found: for each fusion, the weights by layer and site, and their mean.
    """
    panels: list[tuple[str, list[str], list[Mapping[str, float]]]] = [
        ("mean over layers", list(found), [fusion["mean"] for fusion in found.values()])
    ]
    for name, fusion in found.items():
        several = len({row["site"] for row in fusion["rows"]}) > 1
        labels = [f"layer {row['layer']}" + (f" {row['site']}" if several else "") for row in fusion["rows"]]
        panels.append((name, labels, [row["weights"] for row in fusion["rows"]]))
    heights = [max(1.0, len(labels) * 0.45) for _, labels, _ in panels]
    columns = max(len(_names(rows)) for _, _, rows in panels)
    size = (max(4.5, 2.2 + 1.1 * columns), sum(heights) + 1.1 * len(panels))
    figure, axes = _figure(size, len(panels), height_ratios=heights)
    for axis, (title, labels, rows) in zip(axes, panels, strict=True):
        names = _names(rows)
        values = [[row.get(name, float("nan")) for name in names] for row in rows]
        axis.imshow(values, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        axis.set_title(title, fontsize=10)
        axis.set_xticks(range(len(names)), names)
        axis.set_yticks(range(len(labels)), labels)
        for y, row in enumerate(values):
            for x, value in enumerate(row):
                if value == value:  # not-a-number: no candidate there
                    colour = "white" if value > 0.6 else "black"
                    axis.text(x, y, f"{value:.2f}", ha="center", va="center", fontsize=8, color=colour)
    _save(figure, path)


def _names(rows: Sequence[Mapping[str, float]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def _figure(size: tuple[float, float], rows: int, sharex: bool = False, **ratios: Any) -> tuple[Any, list[Any]]:
    """A figure with panels above each other, apart from any window system."""
    figure = require("matplotlib.figure").Figure(figsize=size, layout="constrained")
    require("matplotlib.backends.backend_agg").FigureCanvasAgg(figure)
    axes = figure.subplots(rows, 1, sharex=sharex, squeeze=False, gridspec_kw=ratios)
    return figure, [row[0] for row in axes]


def _save(figure: Any, path: Path) -> None:
    # Without the software's version and date the same results give the same file.
    figure.savefig(path, dpi=DPI, metadata={"Software": None})
