"""Runs a recipe once for each of its seeds, and puts the results together."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from compose.recipes.aggregate import aggregate
from compose.recipes.begun import begin, begun_recipe, is_done
from compose.recipes.console import Console
from compose.recipes.folder import RunFolder
from compose.recipes.job import Job
from compose.recipes.loader import load_text
from compose.recipes.manifest import read_manifest, seed_folder
from compose.recipes.report.runs import Run
from compose.recipes.report.write import page_of, write_page
from compose.recipes.resolved import with_seeds
from compose.recipes.tables import estimate_table

RunOne = Callable[[Job, Console], Path]
"""Runs a recipe of one seed; gives its folder."""

SHARED = ("backbone", "precision")
"""What the seeds' manifests say alike, and their run's says too."""


def run_seeds(job: Job, console: Console, run_one: RunOne) -> Path:
    """Runs everything once per seed, each in `seed-<n>/` under the run's folder.

    Args:
        job: what to run.
        console: says what happens.
        run_one: runs a recipe of one seed.

    Returns:
        The run's folder, complete: `metrics.json` has means, standard deviations and intervals.
    """
    now = begun_recipe(job.recipe)
    if is_done(job, now, console):
        return job.target
    folder = RunFolder(job.target, job.recipe.name, job.overwrite, job.resume)
    begin(folder, now)
    job.write_given(folder)
    places = [folder.path / seed_folder(seed) for seed in job.recipe.seeds]
    for seed, place in zip(job.recipe.seeds, places, strict=True):
        if read_manifest(place) is None:  # else it was run before the run was interrupted
            console.heading(f"seed {seed}")
            run_one(job.of_seed(seed, place), console)
    resolved = with_seeds((places[0] / "resolved.yaml").read_text("utf-8"), job.recipe.seeds)
    folder.write_text("resolved.yaml", resolved)
    metrics = [json.loads((place / "metrics.json").read_text("utf-8")) for place in places]
    results = aggregate(metrics)
    folder.write_json("metrics.json", results)
    _tell(results, console)
    manifests = [read_manifest(place) or {} for place in places]
    facts = {
        "recipe": job.recipe.name,
        **{key: manifests[0].get(key) for key in SHARED},
        "seeds": list(job.recipe.seeds),
        **job.facts,
        "peak_memory_mib": max(manifest.get("peak_memory_mib", 0) for manifest in manifests),
    }
    recipe = load_text(resolved).data
    ran = Run(job.recipe.name, job.target, recipe, tuple(metrics), folder.so_far(facts))
    write_page(page_of([ran], job.recipe.report.plots), folder.write_text)
    return folder.finish(facts)


def _tell(results: Mapping[str, Any], console: Console) -> None:
    if results["scores"]:
        console.heading(f"scores on the test part, means of {len(results['seeds'])} seeds")
        console.say(estimate_table(results))
