"""The parts of a report that say what was done and what it cost: training, parameters, time, the command."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from compose.recipes.aggregate import estimate
from compose.recipes.report import figures
from compose.recipes.report.figures import Line
from compose.recipes.report.graph import draw_graph
from compose.recipes.report.page import Block, Code, Items, Mono, Section, Sub, rows_of, text
from compose.recipes.report.runs import Run
from compose.recipes.report.scores import file_name
from compose.recipes.tables import gigaflops


def training(runs: Sequence[Run], plots: bool) -> Section:
    """The stages of training, and how losses fell."""
    rows, named = [], []
    for run in runs:
        for number, stage in enumerate(run.first["stages"]):
            each = [metrics["stages"][number] for metrics in run.seeds]
            label = label_of(runs, run, stage["name"])
            rows.append(
                [
                    label,
                    stage["regime"],
                    f"{stage['trained_parameters']:,}",
                    f"{100 * stage['trained_parameters'] / stage['parameters']:.2f} %",
                    f"{max(stage['examples'].values(), default=0)}",
                    f"{stage['epochs']}",
                    f"{stage['learning_rate']:g}",
                    mean_text([found["losses"][-1] for found in each if found.get("losses")], 3),
                    mean_text([found["seconds"] for found in each], 1),
                    mean_text(later_epochs(each), 1),
                ]
            )
            named.append((f"{label}: ", Mono(stage["expression"])))
    if not rows:
        return Section("Training", ())
    header = ["stage", "regime", "trained parameters", "share", "examples", "epochs"]
    header += ["learning rate", "last loss", "seconds", "an epoch"]
    blocks: list[Block] = [rows_of(header, rows), Items(tuple(named))]
    panels = _curves(runs)
    if plots and panels:
        alt = f"Learning curves: {' and '.join(panels)} after each epoch".replace("\n", " ")
        blocks.append(figures.curves("learning_curves", alt, panels, "epoch"))
    return Section("Training", tuple(blocks))


def later_epochs(seeds: Sequence[Mapping[str, Any]]) -> list[float]:
    """The seconds of all epochs after the first, which prepares what the others find, of a stage in each seed."""
    return [seconds for stage in seeds for seconds in (stage.get("epoch_seconds") or [])[1:]]


def label_of(runs: Sequence[Run], run: Run, name: str) -> str:
    """A name of a run's, with the run's own before it where there are several."""
    return name if len(runs) == 1 else f"{run.name}: {name}"


def mean_text(values: Sequence[float], digits: int) -> str:
    """The mean of some values with so many decimals; empty without any."""
    return f"{sum(values) / len(values):.{digits}f}" if values else ""


def _curves(runs: Sequence[Run]) -> dict[str, list[Line]]:
    """Losses by epoch, and the mean of main scores where stages record them."""
    losses, scores = [], []
    for run in runs:
        for number, stage in enumerate(run.first["stages"]):
            each = [metrics["stages"][number] for metrics in run.seeds]
            label = label_of(runs, run, stage["name"])
            losses += _line(label, [found.get("losses") or [] for found in each])
            means = [[_mean(epoch, run.main) for epoch in found.get("validation") or []] for found in each]
            scores += _line(label, [[value for value in found if value is not None] for found in means], 100)
    panels = {"loss": losses, "score on the\nvalidation part, %": scores}
    return {name: lines for name, lines in panels.items() if lines}


def _line(label: str, seeds: Sequence[Sequence[float]], scale: float = 1) -> list[Line]:
    """A line over the epochs that all seeds have."""
    count = min(map(len, seeds))
    found = [estimate(scale * values[epoch] for values in seeds) for epoch in range(count)]
    return [Line(label, range(1, count + 1), found)] if found else []


def _mean(epoch: Mapping[str, Any], main: Mapping[str, str]) -> float | None:
    """The mean of tasks' main scores in an epoch; of a task that is not scored in the end, of its first metric."""
    values = [scores[main[task] if main.get(task) in scores else next(iter(scores))] for task, scores in epoch.items()]
    return sum(values) / len(values) if values else None


def costs(runs: Sequence[Run]) -> Section:
    """What systems cost: parameters, operations, time, memory; and the parts they are made of."""
    blocks: list[Block] = []
    rows = []
    for run in runs:
        for name, found in run.first.get("systems", {}).items():
            rows.append(
                [
                    label_of(runs, run, name),
                    f"{found['parameters']:,}",
                    gigaflops(found["flops"]),
                    gigaflops(found["separate_flops"]),
                    f"{found['flops'] / found['plain_flops']:.2f} x" if found["plain_flops"] else "",
                ]
            )
    if rows:
        batch = next(iter(next(run for run in runs if run.first.get("systems")).first["systems"].values()))
        lead = f"Operations are those of a forward pass of {batch['rows']} rows of {batch['tokens']} tokens."
        header = ["system", "parameters added", "GFLOPs", "a pass for each task", "of the backbone alone"]
        blocks += [text(lead), rows_of(header, rows)]
    rows = [
        [
            label_of(runs, run, part["name"]),
            part["what"],
            f"{part['method']}, loaded from {part['loaded']}" if "loaded" in part else part["method"],
            f"{part['parameters']:,}",
            size(part["bytes"]),
        ]
        for run in runs
        for part in run.first.get("parts", [])
    ]
    if rows:
        blocks += [Sub("Parts"), rows_of(["name", "what", "method", "parameters", "size"], rows)]
    rows = [
        [run.name, *(f"{run.facts[key]:,.0f}" if key in run.facts else "" for key in ("seconds", "peak_memory_mib"))]
        for run in runs
    ]
    if any(any(row[1:]) for row in rows):
        blocks += [Sub("The whole run"), rows_of(["run", "seconds", "peak memory, MiB"], rows)]
    return Section("What it costs", tuple(blocks))


def size(count: int) -> str:
    """Bytes for people.

    >>> size(1_500_000)
    '1.4 MiB'
    """
    value, units = float(count), ["B", "KiB", "MiB", "GiB"]
    while value >= 1024 and len(units) > 1:
        value, units = value / 1024, units[1:]
    return f"{value:.1f} {units[0]}" if units[0] != "B" else f"{count} B"


def graphs(runs: Sequence[Run], plots: bool) -> Section:
    """The execution graph of each system."""
    blocks: list[Block] = []
    for run in runs:
        for name, found in run.first.get("systems", {}).items():
            label = label_of(runs, run, name)
            blocks += [Sub(label), text(Mono(found["expression"]))]
            if plots and found["boxes"]:
                blocks.append(draw_graph(f"graph_{file_name(label)}", found["boxes"], f"Execution graph of {label}"))
    return Section("What runs", tuple(blocks))


def again(runs: Sequence[Run]) -> Section:
    """The exact commands, and with which versions."""
    blocks: list[Block] = [
        text(Mono("resolved.yaml"), " is the recipe with every default written out. This does it again:"),
        Code("\n".join(f"$ compose run {shlex.quote(str(run.folder / 'resolved.yaml'))}" for run in runs)),
    ]
    words = [asked(run.facts) for run in runs]
    if any(words):
        lines = [f"$ {shlex.join(['compose', 'run', 'RECIPE', *each])}" for each in words]
        blocks += [text("As it was given:"), Code("\n".join(lines))]
    versions = [
        (f"{run.name}: ", ", ".join(f"{name} {version}" for name, version in run.facts["versions"].items()))
        for run in runs
        if "versions" in run.facts
    ]
    if versions:
        blocks += [text("Versions:"), Items(tuple(versions))]
    return Section("Do it again", tuple(blocks))


def asked(facts: Mapping[str, Any]) -> list[str]:
    """What `compose run` was told beside the recipe."""
    smoke = ["--smoke"] if "smoke" in facts else []
    return [*smoke, *(word for override in facts.get("overrides") or () for word in ("--set", override))]
