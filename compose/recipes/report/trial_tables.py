"""The table of a sweep: what each member scored and cost."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from compose.recipes.report.costs import later_epochs, mean_text, size
from compose.recipes.report.page import Table, rows_of
from compose.recipes.report.runs import Run, System
from compose.recipes.report.scores import percent
from compose.recipes.report.trials import Sweep, Trial, told, trained_parameters
from compose.recipes.schema.train import TRAINS_BACKBONE
from compose.recipes.tables import gigaflops

LEAD = (
    "Scores on the test part, in percent. Training is the time of all stages of a seed, an epoch that of those after "
    "the first; kept is what has to be stored beside the backbone, or with it where it was trained; operations are "
    "those of a pass of 8 rows of 128 tokens."
)

COSTS = ("trained parameters", "kept", "training, s", "an epoch, s", "peak memory, MiB", "GFLOPs")
"""What a member costs."""


def results(sweep: Sweep) -> Table:
    """Every member: what is its own, its scores by task, and its costs; a line for each of its systems."""
    tasks, several = sweep.tasks(), len(sweep.systems()) > 1
    scored = [*(tasks if len(tasks) > 1 else []), "mean"]
    rows = []
    for trial in sweep.trials:
        own = [trial.number, *(told(value) for value in trial.values.values())]
        if trial.run is None:
            rows.append([*own, *([""] if several else []), "failed", *[""] * (len(scored) + len(COSTS) - 1)])
        for system in trial.systems():
            found = [percent(system.score(None if name == "mean" else name)) for name in scored]
            rows.append([*own, *([system.name] if several else []), *found, *_costs(trial, system)])
    header = ["member", *sweep.keys, *(["system"] if several else []), *scored, *COSTS]
    return rows_of([name if name != "mean" or len(scored) > 1 else "score" for name in header], rows)


def _costs(trial: Trial, system: System) -> list[str]:
    """What a system of a member costs; of baselines only the member's own figures are known, which are not theirs."""
    run = system.run
    found: Mapping[str, Any] | None = run.first.get("systems", {}).get(system.name)
    if found is None:
        return [""] * len(COSTS)
    seconds = fmean(sum(stage["seconds"] for stage in metrics["stages"]) for metrics in run.seeds)
    one = len(run.first["stages"]) == 1
    peak = run.facts.get("peak_memory_mib")
    return [
        f"{trained_parameters(run):,}",
        size(_kept(run, found)) if "bytes" in found else "",
        f"{seconds:.0f}",
        mean_text(later_epochs([stage for metrics in run.seeds for stage in metrics["stages"]]), 1) if one else "",
        "" if peak is None else f"{peak:,.0f}",
        gigaflops(found["flops"]),
    ]


def _kept(run: Run, system: Mapping[str, Any]) -> int:
    """The bytes that a system needs beside the backbone, or with it where a stage trained it."""
    trained = any(stage["regime"] in TRAINS_BACKBONE for stage in run.first["stages"])
    backbone = sum(part["bytes"] for part in run.first.get("parts", []) if part["what"] == "backbone")
    return int(system["bytes"]) + (backbone if trained else 0)
