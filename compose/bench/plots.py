"""The page's plots, as SVG; the same figures give the same file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from compose.recipes.report.figures import COLOURS
from compose.train.extras import require

Result = Mapping[str, Any]
Point = tuple[float, float, float]
"""A place on the x axis, the ratio of medians, and that of FLOPs."""


def fusion(path: Path, case: Result) -> bool:
    """The cost of a fusion by the number of its adapters."""
    lines = {who: _ratios(case, who, "adapters") for who in ("ours", "peer")}
    if not lines["ours"]:
        return False
    figure, (axis,) = _figure(1)
    _lines(axis, lines, "adapters")
    _save(figure, path)
    return True


def parallel(path: Path, case: Result) -> bool:
    """The cost of a Parallel by the number of its tasks, and of its largest by the layers that are dropped."""
    largest = max((one["options"].get("adapters", 0) for one in case["contestants"].values()), default=0)
    tasks = _ratios(case, "ours", "adapters", lambda options: not options["drop"])
    dropped = _ratios(case, "ours", "drop", lambda options: options["adapters"] == largest)
    if not tasks or not dropped:
        return False
    figure, (left, right) = _figure(2)
    _lines(left, {"ours": tasks}, "tasks")
    _lines(right, {"ours": dropped}, f"first layers dropped, {largest} tasks")
    _save(figure, path)
    return True


def epochs(path: Path, case: Result) -> bool:
    """The time of each epoch of training with and without the trunk cache."""
    found = {
        name: one["facts"]["epochs"] for name, one in case["contestants"].items() if one.get("facts", {}).get("epochs")
    }
    if not found:
        return False
    figure, (axis,) = _figure(1)
    for index, (name, seconds) in enumerate(found.items()):
        axis.plot(range(1, len(seconds) + 1), seconds, marker="o", label=name, color=COLOURS[index % len(COLOURS)])
    axis.set_xlabel("epoch")
    axis.set_ylabel("seconds")
    axis.set_ylim(bottom=0)
    axis.set_xticks(range(1, max(map(len, found.values())) + 1))
    axis.legend(frameon=False, fontsize=8)
    _save(figure, path)
    return True


PLOTS: Mapping[str, Callable[[Path, Result], bool]] = {
    "fuse-scaling": fusion,
    "parallel-scaling": parallel,
    "drop-training": epochs,
    "aggregation-training": epochs,
}
"""The plot of each case that has one; it says whether there was something to draw."""


def _ratios(
    case: Result, who: str, option: str, chosen: Callable[[Mapping[str, Any]], bool] = lambda options: True
) -> list[Point]:
    """Time and FLOPs of contestants against the plain backbone, by one of their options."""
    found = [one for one in case["contestants"].values() if "median" in one and one.get("flops")]
    plain = next((one for one in found if one["by"] == "plain"), None)
    if plain is None:
        return []
    return sorted(
        (one["options"][option], one["median"] / plain["median"], one["flops"] / plain["flops"])
        for one in found
        if one["by"] == who and chosen(one["options"])
    )


def _lines(axis: Any, lines: Mapping[str, list[Point]], label: str) -> None:
    for (who, points), colour in zip(lines.items(), COLOURS, strict=False):
        if points:
            places, times, flops = zip(*points, strict=True)
            axis.plot(places, times, marker="o", color=colour, label=f"{who}, time")
            axis.plot(places, flops, linestyle="--", color=colour, label=f"{who}, FLOPs")
            axis.set_xticks(sorted({*axis.get_xticks(minor=True), *places}))
    axis.axhline(1.0, color="grey", linewidth=0.8)
    axis.set_xlabel(label)
    axis.set_ylabel("times the plain backbone")
    axis.set_ylim(bottom=0)
    axis.legend(frameon=False, fontsize=8)


def _figure(columns: int) -> tuple[Any, list[Any]]:
    """A figure with panels beside each other, apart from any window system."""
    figure = require("matplotlib.figure").Figure(figsize=(5.2 * columns, 3.6), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False)
    return figure, list(axes[0])


def _save(figure: Any, path: Path) -> None:
    # Neither ids that are drawn nor a date: a page that is written again is the same.
    with require("matplotlib").rc_context({"svg.hashsalt": path.name, "svg.fonttype": "path"}):
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
