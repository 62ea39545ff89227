"""The parts of a report that say how good systems are: scores, differences, confusions, entities by type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from compose.recipes.aggregate import Estimate, estimate
from compose.recipes.report import figures
from compose.recipes.report.figures import Matrix
from compose.recipes.report.page import Block, Figure, Section, Sub, Table, rows_of, text
from compose.recipes.report.runs import Run, System, systems_of
from compose.train.metrics import ERRORS

MANY_LABELS = 60
"""Confusions of more labels are not drawn."""


def scores(runs: Sequence[Run], plots: bool) -> Section:
    """The main score of each task by each system, and what systems differ by."""
    systems = [system for system in systems_of(runs) if system.score(None)]
    if not systems:
        return Section("Scores", ())
    main = runs[0].main
    named: list[tuple[str | None, str]] = [*((task, f"{task} ({metric})") for task, metric in main.items())]
    named.append((None, "mean"))
    rows = [[label, *(percent(system.score(task)) for system in systems)] for task, label in named]
    seeds = max(len(run.seeds) for run in runs)
    lead = "On the test part, in percent. Baselines learned from the same rows."
    if seeds > 1:
        lead += (
            " Means over seeds; ± is half of the 95 % confidence interval of the mean (Student's t), "
            "in brackets the standard deviation."
        )
    blocks: list[Block] = [text(lead), rows_of(["task", *(system.label for system in systems)], rows)]
    if plots and len(systems) > 1:
        blocks.append(_dots(systems, named))
    blocks += _differences(systems, named, seeds > 1)
    blocks += _all_metrics(systems)
    return Section("Scores", tuple(blocks))


def _dots(systems: Sequence[System], named: Sequence[tuple[str | None, str]]) -> Figure:
    rows = {
        label: [(system.label, percents(found)) for system in systems if (found := system.score(task))]
        for task, label in named
    }
    return figures.bars("scores", "Scores of each task by each system, with intervals", rows, "score, %")


def _differences(systems: Sequence[System], named: Sequence[tuple[str | None, str]], several: bool) -> list[Block]:
    """What each system is above the first."""
    first, *others = systems
    rows = []
    for system in others:
        found = [system.above(first, task) for task, _ in named]
        if any(found):
            rows.append([system.label, *(points(each) for each in found)])
    if not rows:
        return []
    note = f"In percentage points against {first.label}, "
    note += "paired by seed." if several else "of one seed: by how much it would vary is not known."
    if several:
        note += " With * the 95 % interval of the difference does not hold 0; it is not corrected for many comparisons."
    header = ["system", *(label for _, label in named)]
    return [Sub(f"Differences to {first.label}"), text(note), rows_of(header, rows)]


def _all_metrics(systems: Sequence[System]) -> list[Block]:
    """Every metric that was measured."""
    blocks: list[Block] = []
    for task in systems[0].run.main:
        found = {system.label: _metrics(system, task) for system in systems}
        names = list(dict.fromkeys(name for each in found.values() for name in each))
        if len(names) > 1:
            rows = [[label, *(each.get(name, "") for name in names)] for label, each in found.items() if each]
            blocks += [Sub(f"All metrics of {task}"), rows_of(["system", *names], rows)]
    return blocks


def _metrics(system: System, task: str) -> dict[str, str]:
    each = [metrics["scores"].get(system.name, {}).get(task, {}) for metrics in system.run.seeds]
    found = {}
    for name in each[0]:
        values = [scores[name] for scores in each if name in scores]
        if name in ERRORS:
            found[name] = f"{sum(values) / len(values):.4g}"
        else:
            found[name] = percent(estimate(values))
    return found


def details(runs: Sequence[Run], plots: bool) -> Section:
    """Confusion matrices of labels, and entities by type, of all seeds together."""
    systems = systems_of(runs)
    blocks: list[Block] = []
    for task in runs[0].main:
        matrices: list[Matrix] = []
        tables: list[Block] = []
        for system in systems:
            found = [metrics.get("details", {}).get(system.name, {}).get(task, {}) for metrics in system.run.seeds]
            confusions = [each["confusion"] for each in found if "confusion" in each]
            if confusions:
                matrices.append(summed(system.label, confusions))
            types = [each["types"] for each in found if each.get("types")]
            if types:
                tables += [Sub(f"{task}, by type: {system.label}"), _types(types)]
        matrices = [matrix for matrix in matrices if len(matrix.columns) <= MANY_LABELS]
        if matrices:
            blocks.append(Sub(f"{task}: what was answered for what is right"))
            blocks += _confusions(task, matrices, plots)
        blocks += tables
    return Section("What is taken for what", tuple(blocks))


def _confusions(task: str, matrices: Sequence[Matrix], plots: bool) -> list[Block]:
    if plots:
        name = f"confusion_{file_name(task)}"
        alt = f"Confusion matrices of {task}: rows are right, columns were answered"
        return [figures.heat_maps(name, alt, matrices, False, "answered", "right")]
    blocks: list[Block] = []
    for matrix in matrices:
        rows = [
            [label, *(f"{value or 0:.0f}" for value in row)]
            for label, row in zip(matrix.rows, matrix.values, strict=True)
        ]
        blocks += [text(f"{matrix.title}:"), rows_of(["right \\ answered", *matrix.columns], rows)]
    return blocks


def summed(title: str, confusions: Sequence[Mapping[str, Any]]) -> Matrix:
    """Confusions of several seeds as one; labels that one lacks count nothing there."""
    labels = sorted({label for each in confusions for label in each["labels"]})
    place = {label: number for number, label in enumerate(labels)}
    counts = [[0.0] * len(labels) for _ in labels]
    for each in confusions:
        for label, row in zip(each["labels"], each["counts"], strict=True):
            for other, count in zip(each["labels"], row, strict=True):
                counts[place[label]][place[other]] += count
    return Matrix(title, labels, labels, counts)


def _types(seeds: Sequence[Mapping[str, Mapping[str, float]]]) -> Table:
    rows = []
    for name in sorted({name for each in seeds for name in each}):
        found = [each[name] for each in seeds if name in each]
        scores = [percent(estimate([each[part] for each in found])) for part in ("precision", "recall", "f1")]
        rows.append([name, *scores, f"{max(each['support'] for each in found):.0f}"])
    return rows_of(["type", "precision", "recall", "F1", "entities"], rows)


def percent(found: Estimate | None) -> str:
    """An estimate in percent.

    >>> percent(Estimate(0.9, None, None, None, (0.9,))), percent(Estimate(0.9, 0.01, 0.88, 0.92, (0.9, 0.9)))
    ('90.0', '90.0 ± 2.0 (1.0)')
    """
    if found is None:
        return ""
    if found.half is None or found.deviation is None:
        return f"{100 * found.mean:.1f}"
    return f"{100 * found.mean:.1f} ± {100 * found.half:.1f} ({100 * found.deviation:.1f})"


def points(found: Estimate | None) -> str:
    """A difference in percentage points, marked where its interval does not hold 0.

    >>> points(Estimate(0.02, 0.01, 0.01, 0.03, (0.02, 0.02))), points(Estimate(-0.02, None, None, None, (-0.02,)))
    ('+2.0 ± 1.0 *', '-2.0')
    """
    if found is None:
        return ""
    if found.low is None or found.high is None or found.half is None:
        return f"{100 * found.mean:+.1f}"
    sure = " *" if found.low > 0 or found.high < 0 else ""
    return f"{100 * found.mean:+.1f} ± {100 * found.half:.1f}{sure}"


def percents(found: Estimate) -> Estimate:
    """An estimate times 100."""
    times = [None if value is None else 100 * value for value in (found.deviation, found.low, found.high)]
    return Estimate(100 * found.mean, times[0], times[1], times[2], tuple(100 * value for value in found.values))


def file_name(name: str) -> str:
    """A name of a task or system as part of a file's.

    >>> file_name("a,b: c/d")
    'a-b--c-d'
    """
    return "".join(letter if letter.isalnum() and letter.isascii() else "-" for letter in name)[:60]
