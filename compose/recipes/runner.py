"""Runs a recipe: data and model, the stages of training, what is measured, and the folder of results."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from compose.recipes import measure
from compose.recipes.begun import begin, begun_with, is_done
from compose.recipes.checks import owns_backbone
from compose.recipes.console import Console, table
from compose.recipes.evaluated import Evaluated
from compose.recipes.experiment import Experiment, build, labels_of
from compose.recipes.folder import RunFolder, check_replaceable, settle
from compose.recipes.following import follow
from compose.recipes.fusion_curve import fusion_curve
from compose.recipes.job import Job
from compose.recipes.loader import load_text
from compose.recipes.memory import forget_peak, peak_memory
from compose.recipes.report.runs import Run
from compose.recipes.report.write import page_of, write_page
from compose.recipes.resolved import resolve, to_yaml
from compose.recipes.schema import Recipe
from compose.recipes.seeds import run_seeds
from compose.recipes.smoke import NOTE, Smoke
from compose.recipes.sweeping import run_sweep
from compose.recipes.systems import describe_parts, describe_systems
from compose.recipes.tables import answer_lines, compare_table, curve_table, cut_line, score_table
from compose.recipes.training import Training
from compose.recipes.validate import read_recipe
from compose.train.processes import is_first
from compose.train.rows import cut_inputs

LOGS = "logs"
"""The folder of what TensorBoard reads, where a recipe logs with it."""

PLAN = "plan"
"""The folder of the composition that `compose predict` answers with."""


@dataclass
class Results:
    """What a run found out; `metrics.json` holds it."""

    recipe: str
    seed: int
    stages: list[dict[str, Any]] = field(default_factory=list)
    main: dict[str, str] = field(default_factory=dict)
    scores: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    means: dict[str, float] = field(default_factory=dict)
    details: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    parts: list[dict[str, Any]] = field(default_factory=list)
    systems: dict[str, dict[str, Any]] = field(default_factory=dict)
    drop_curve: list[dict[str, Any]] = field(default_factory=list)
    fusion_curve: list[dict[str, Any]] = field(default_factory=list)
    fusion_attention: dict[str, dict[str, Any]] = field(default_factory=dict)
    compare: list[dict[str, Any]] = field(default_factory=list)
    predictions: list[dict[str, Any]] = field(default_factory=list)
    cut: list[dict[str, Any]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return dict(vars(self))


def run(
    path: Path,
    overrides: Sequence[str] = (),
    out: Path | None = None,
    overwrite: bool = False,
    console: Console | None = None,
    jobs: int = 1,
    resume: bool = False,
    smoke: bool = False,
) -> Path:
    """Runs a recipe: once, or for each of its seeds, or for each member of its sweep.

    Where `torchrun` or `accelerate launch` started several processes, all of them train, and the first does the rest.

    Args:
        path: its file.
        overrides: `key=value` each, as `--set` gives them.
        out: the folder for results, by default `runs/` and the recipe's name.
        overwrite: whether the folder may hold another recipe's run, which then goes.
        console: says what happens.
        jobs: how many members of a sweep run side by side, each in a process of its own.
        resume: whether to go on with what an interrupted run of the same recipe left; where there is nothing, the run
            begins anew.
        smoke: whether to try the recipe offline in seconds, with a tiny random backbone and made data in the place of
            its own; see `Smoke`. The results go to `runs/` and the recipe's name with `-smoke`, and mean nothing.

    Returns:
        The folder, complete.

    Raises:
        ComposeError: the recipe, its data or the backbone is not right; or what is to go on is another run.
    """
    console = console or Console()
    started = time.time()
    made = Smoke(out) if smoke else None
    document, recipe = read_recipe(path, overrides, made)
    job = Job(document, recipe, tuple(overrides), out or Path("runs") / recipe.name, overwrite, resume, made)
    if not is_first():
        return follow(job)
    settle(job.target)
    check_replaceable(job.target, recipe.name, overwrite)
    console.say(f"{recipe.name}: {recipe.description}".strip().rstrip(":"))
    if made is not None:
        console.say(NOTE)
    done = run_sweep(job, console, run_job, jobs) if recipe.sweep else run_job(job, console)
    console.say(f"\nresults in {done} ({time.time() - started:.0f} s): report.html, report.md, metrics.json")
    return done


def run_job(job: Job, console: Console) -> Path:
    """Runs a recipe without a sweep; gives its folder, complete."""
    return run_seeds(job, console, run_once) if len(job.recipe.seeds) > 1 else run_once(job.first(), console)


def run_once(job: Job, console: Console) -> Path:
    """Runs a recipe of one seed; gives its folder, complete."""
    document, recipe = job.document, job.recipe
    forget_peak()
    experiment = build(recipe, document)
    labels = {name: list(labels_of(recipe, experiment.data, name) or ()) for name in recipe.heads}
    resolved = resolve(recipe, experiment.folder, {name: found for name, found in labels.items() if found})
    results = Results(recipe.name, recipe.seed)
    training = Training(experiment, console, partial(_note_cut, results, console))
    begun = begun_with(experiment, resolved)
    if is_done(job, begun, console):
        return job.target
    folder = RunFolder(job.target, recipe.name, job.overwrite, job.resume)
    begin(folder, begun)
    job.write_given(folder)
    folder.write_text("resolved.yaml", to_yaml(resolved))
    console.say(str(experiment.model.summary()))
    for index in range(len(recipe.train)):
        results.stages.append(training.stage(index, folder.checkpoint(index), folder.path / LOGS))
    _save(experiment, folder.path)
    _measure(experiment, results, console)
    results.parts = describe_parts(experiment)
    results.systems = describe_systems(experiment, results.parts)
    _predict(experiment, results, console)
    folder.write_json("metrics.json", results.to_dict())
    facts = {
        "recipe": recipe.name,
        "backbone": recipe.backbone.called,
        "precision": experiment.model.precision,
        "seed": recipe.seed,
        **job.facts,
        "fingerprints": {key: begun[key] for key in ("data", "backbone", "loaded")},
        "peak_memory_mib": peak_memory(),
    }
    ran = Run(recipe.name, job.target, load_text(to_yaml(resolved)).data, (results.to_dict(),), folder.so_far(facts))
    write_page(page_of([ran], recipe.report.plots), folder.write_text)
    return folder.finish(facts)


def _note_cut(results: Results, console: Console, where: str, cut: Mapping[str, tuple[int, int]]) -> None:
    """Tells and keeps how many texts of which data were too long; `cut` has them by data, and of how many."""
    rows = [{"where": where, "data": name, "texts": texts, "of": of} for name, (texts, of) in cut.items() if texts]
    results.cut += rows
    for row in rows:
        console.say(cut_line(row))


def _measure(experiment: Experiment, results: Results, console: Console) -> None:
    wanted = experiment.recipe.evaluate
    _note_cut(results, console, "test part", measure.cut_tests(experiment))
    if wanted.expressions:
        console.heading("scores on the test part")
        for system, answered in measure.answers(experiment).items():
            results.scores[system] = measure.scores_of(experiment, answered)
            results.details[system] = {task: found.details() for task, found in answered.items()}
        tasks = dict.fromkeys(task for scores in results.scores.values() for task in scores)
        results.main = measure.main_metrics(experiment, tasks)
        results.means = {name: measure.mean_score(experiment, scores) for name, scores in results.scores.items()}
        console.say(score_table(results.scores, results.main, results.means))
    if wanted.drop_curve is not None:
        console.heading("adapters dropped from the first layers")
        results.drop_curve = measure.drop_curve(experiment, wanted.drop_curve, results.scores)
        main = measure.main_metrics(experiment, results.drop_curve[0]["scores"])
        console.say(curve_table(results.drop_curve, main, "first", "first layers dropped"))
    if wanted.fusion_curve is not None:
        console.heading("fusions that keep so many of their children")
        results.fusion_curve = fusion_curve(experiment, wanted.fusion_curve)
        main = measure.main_metrics(experiment, results.fusion_curve[0]["scores"])
        console.say(curve_table(results.fusion_curve, main, "keep", "children kept"))
    if wanted.fusion_attention:
        results.fusion_attention = measure.fusion_attention(experiment)
        for name, found in results.fusion_attention.items():
            console.heading(f"where the fusion '{name}' looks")
            console.say(table(["adapter", "weight"], [[adapter, f"{w:.2f}"] for adapter, w in found["mean"].items()]))


def _predict(experiment: Experiment, results: Results, console: Console) -> None:
    wanted = experiment.recipe.predict
    new = experiment.new_inputs()
    if wanted is None or not new:
        return
    inputs = [given for _, given in new]
    plan = experiment.plan(("predict", "expression"), wanted.expression)
    console.heading("answers, all tasks in one pass")
    cut = cut_inputs(experiment.model, inputs)
    _note_cut(results, console, "new messages", {"predict": (cut, len(inputs))})
    answers = plan.predict(inputs, truncate=True)
    results.predictions = [
        {"text": text, "answers": {str(task): found for task, found in answer.items()}}
        for (text, _), answer in zip(new, answers, strict=True)
    ]
    for prediction in results.predictions:
        console.say(answer_lines(prediction))
    if wanted.compare is not None:
        results.compare = measure.compare_passes(experiment, plan, inputs, wanted.compare)
        console.heading("one pass against a pass for each task")
        console.say(compare_table(results.compare))


def _save(experiment: Experiment, folder: Path) -> None:
    """Writes every adapter, fusion and head, and the composition that answers."""
    model, recipe = experiment.model, experiment.recipe
    for name in recipe.adapters:
        model.save_adapter(name, folder / "adapters" / name)
    for name in recipe.fusions:
        model.save_fusion(name, folder / "fusions" / name)
    for name in recipe.heads:
        model.save_head(name, folder / "heads" / name)
    text = _answering(recipe)
    if text is not None:
        model.plan(text).save(folder / PLAN, with_backbone=owns_backbone(recipe))


def _answering(recipe: Recipe) -> str | None:
    """The expression that a run answers with: that of `predict`, else the first that is evaluated, or trained."""
    if recipe.predict is not None:
        return recipe.predict.expression
    evaluated = [each.text for members in Evaluated(recipe).systems.values() for each in members]
    return next(iter([*evaluated, *(stage.expression for stage in reversed(recipe.train))]), None)
