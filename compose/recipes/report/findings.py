"""The parts of a report that look into systems: curves, where fusions look, one pass, answers, cut texts."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from compose.recipes.aggregate import Estimate, estimate
from compose.recipes.report import figures
from compose.recipes.report.costs import label_of, mean_text
from compose.recipes.report.figures import Line, Matrix
from compose.recipes.report.page import Block, Figure, Items, Mono, Quote, Section, Sub, Table, rows_of, text
from compose.recipes.report.runs import Run
from compose.recipes.report.scores import file_name, percents
from compose.recipes.schema.model import called
from compose.recipes.tables import cut_line, gigaflops, told

Point = Sequence[Mapping[str, Any]]
"""A place of a curve in the results of each seed."""


class Curve(NamedTuple):
    """A curve of results.

    Args:
        results: its key there.
        place: the key of a point that says where it is.
        title: of its section.
        header: what points are at.
        axis: the same in words.
        about: what it says, before how it was measured.
    """

    results: str
    place: str
    title: str
    header: str
    axis: str
    about: str


DROP = Curve(
    "drop_curve",
    "first",
    "Adapters dropped from the first layers",
    "first layers dropped",
    "adapters dropped from so many first layers",
    "Nothing was trained for it. Branches share the layers that have no adapters, so that dropping makes them part "
    "later.",
)
FUSION = Curve(
    "fusion_curve",
    "keep",
    "Fusions that keep some of their children",
    "children kept",
    "each fusion keeps so many children",
    "Nothing was trained for it. Each fusion keeps the children that it looks at most on what it learned from.",
)


def curve(runs: Sequence[Run], plots: bool, what: Curve) -> Section:
    """Scores and speed along a curve."""
    found = [(run, points) for run in runs if (points := _points(run, what))]
    if not found:
        return Section(what.title, ())
    tasks = list(dict.fromkeys(task for _, points in found for task in points[0][0]["scores"]))
    rows, scores, times = [], [], []
    for run, points in found:
        for point in points:
            each = [_share(_score(run, point, task)) if task in point[0]["scores"] else "" for task in tasks]
            took, flops = mean_text([seed["milliseconds"] for seed in point], 0), gigaflops(point[0]["flops"])
            rows.append([label_of(runs, run, f"{point[0][what.place]}"), *each, _share(_mean(point)), took, flops])
        places = [point[0][what.place] for point in points]
        for task in tasks if len(runs) == 1 else ():
            scores.append(Line(task, places, [percents(_score(run, point, task)) for point in points]))
        scores.append(Line(label_of(runs, run, "mean"), places, [percents(_mean(point)) for point in points]))
        took_all = [estimate(seed["milliseconds"] for seed in point) for point in points]
        times.append(Line("" if len(runs) == 1 else run.name, places, took_all))
    size = found[0][1][0][0]
    lead = (
        f"{what.about} Times are medians of forward passes of {size['rows']} rows of {size['tokens']} tokens on this "
        "machine; scores are in percent."
    )
    blocks: list[Block] = [text(lead), rows_of([what.header, *tasks, "mean", "ms", "GFLOPs"], rows)]
    if plots:
        panels = {"score, %": scores, "time of a batch, ms": times}
        blocks.append(figures.curves(what.results, f"Score and time, {what.axis}", panels, what.axis))
    return Section(what.title, tuple(blocks))


def _points(run: Run, what: Curve) -> list[Point]:
    return list(zip(*(metrics.get(what.results) or [] for metrics in run.seeds), strict=True))


def _score(run: Run, point: Point, task: str) -> Estimate:
    metric = run.main.get(task) or next(iter(point[0]["scores"][task]))
    return estimate(seed["scores"][task][metric] for seed in point)


def _mean(point: Point) -> Estimate:
    return estimate(seed["mean"] for seed in point)


def _share(found: Estimate) -> str:
    half = "" if found.half is None else f" ± {100 * found.half:.1f}"
    return f"{100 * found.mean:.1f}{half}"


def fusions(runs: Sequence[Run], plots: bool, per_layer: bool) -> Section:
    """Where fusions look: the mean weight of each adapter, for each target; on request by layer."""
    blocks: list[Block] = []
    for run in runs:
        each = [metrics.get("fusion_attention") or {} for metrics in run.seeds]
        if not each[0]:
            continue
        means = {name: _averaged([seed[name]["mean"] for seed in each]) for name in each[0]}
        matrices = [_matrix("mean over layers", means)]
        if per_layer:
            matrices += [_matrix(name, _by_layer([seed[name]["rows"] for seed in each])) for name in each[0]]
        if len(runs) > 1:
            blocks.append(Sub(run.name))
        blocks += _shown(matrices, plots, f"fusion_attention{'' if len(runs) == 1 else f'_{file_name(run.name)}'}")
    if not blocks:
        return Section("Where fusions look", ())
    lead = "Mean weight of each adapter over all test tokens and layers."
    if not per_layer:
        lead += " With --per-layer, compose report shows each layer."
    return Section("Where fusions look", (text(lead), *blocks))


def _averaged(seeds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for each in seeds for name in each)
    return {name: statistics.fmean(each.get(name, 0.0) for each in seeds) for name in names}


def _by_layer(seeds: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, dict[str, float]]:
    several = len({row["site"] for row in seeds[0]}) > 1
    found = {}
    for place, row in enumerate(seeds[0]):
        label = f"layer {row['layer']}" + (f" {row['site']}" if several else "")
        found[label] = _averaged([each[place]["weights"] for each in seeds])
    return found


def _matrix(title: str, rows: Mapping[str, Mapping[str, float]]) -> Matrix:
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    return Matrix(title, list(rows), columns, [[row.get(name) for name in columns] for row in rows.values()])


def _shown(matrices: Sequence[Matrix], plots: bool, name: str) -> list[Block]:
    tables: list[Block] = [_table(matrix) for matrix in matrices]
    if not plots:
        return tables
    alt = "Weights by target and adapter, the darker the greater"
    picture: Figure = figures.heat_maps(name, alt, matrices, True, "adapter")
    return [tables[0], picture]


def _table(matrix: Matrix) -> Table:
    rows = [
        [label, *("" if value is None else f"{value:.2f}" for value in row)]
        for label, row in zip(matrix.rows, matrix.values, strict=True)
    ]
    return rows_of(["fusion" if matrix.title.startswith("mean") else matrix.title, *matrix.columns], rows)


def compare(runs: Sequence[Run]) -> Section:
    """One pass for all tasks against a pass for each."""
    rows = [
        [
            label_of(runs, run, f"{row['messages']}"),
            f"{row['one_pass']['milliseconds']:.1f}",
            f"{row['separate']['milliseconds']:.1f}",
            f"{row['separate']['milliseconds'] / row['one_pass']['milliseconds']:.2f} x",
            gigaflops(row["one_pass"]["flops"]),
            gigaflops(row["separate"]["flops"]),
            f"{row['separate']['flops'] / row['one_pass']['flops']:.2f} x",
            f"{row['largest_difference']:.0e}",
        ]
        for run in runs
        for row in run.first.get("compare") or []
    ]
    if not rows:
        return Section("One pass against a pass for each task", ())
    header = ["inputs", "one pass, ms", "separate, ms", "faster"]
    header += ["one pass, GFLOPs", "separate, GFLOPs", "fewer", "difference"]
    lead = "Times are medians of forward passes on this machine; the difference is the largest between logits."
    return Section("One pass against a pass for each task", (text(lead), rows_of(header, rows)))


def answers(runs: Sequence[Run]) -> Section:
    """What was answered to messages and to examples; of several seeds, by the first."""
    blocks: list[Block] = []
    for run in runs:
        if len(runs) > 1 and run.first.get("predictions"):
            blocks.append(Sub(run.name))
        for prediction in run.first.get("predictions") or []:
            found = prediction["answers"].items()
            blocks += [Quote(prediction["text"]), Items(tuple((f"{task}: {told(answer)}",) for task, answer in found))]
    return Section("Answers", tuple(blocks))


def cut(runs: Sequence[Run]) -> Section:
    """Which texts were too long for the backbone."""
    lines = [(label_of(runs, run, cut_line(row)),) for run in runs for row in run.first.get("cut") or []]
    return Section("Texts that were cut", (Items(tuple(lines)),) if lines else ())


def lead(run: Run) -> list[Block]:
    """What a run was about."""
    backbone = run.recipe.get("backbone") or {}
    name = called(backbone) if isinstance(backbone, dict) else str(backbone)
    seeds = ", ".join(str(metrics["seed"]) for metrics in run.seeds)
    about = str(run.recipe.get("description") or "").strip()
    said = text("Backbone ", Mono(str(name)), f", {'seed' if len(run.seeds) == 1 else 'seeds'} {seeds}.")
    return [*caution(run.facts), *([text(about)] if about else []), said]


def caution(facts: Mapping[str, Any]) -> list[Block]:
    """What a report says first of a run whose backbone and data are made up."""
    return [text(f"{str(facts['smoke']).capitalize()}.")] if "smoke" in facts else []
