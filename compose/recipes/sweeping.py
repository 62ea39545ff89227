"""Runs the members of a sweep, one after another or side by side, and puts their results in one place."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from compose.errors import ComposeError, ConfigError
from compose.recipes.begun import begin, begun_recipe, is_done
from compose.recipes.console import Console
from compose.recipes.folder import RunFolder
from compose.recipes.job import Job
from compose.recipes.manifest import read_manifest
from compose.recipes.members import Member, members
from compose.recipes.members import count as count_members
from compose.recipes.report.runs import read_run
from compose.recipes.report.sweep import sweep_page
from compose.recipes.report.trials import Sweep, Trial
from compose.recipes.report.write import write_page
from compose.recipes.tables import sweep_table
from compose.recipes.validate import validate
from compose.train.processes import world

RunJob = Callable[[Job, Console], Path]
"""Runs a recipe without a sweep; gives its folder."""

ALL_IMPORT = ("compose.recipes.runner", "compose.train.fitting")
"""What takes every member seconds to import."""

Outcome = tuple[int, str]
"""The place of a member, and why it failed; empty if it did not."""


def run_sweep(job: Job, console: Console, run_job: RunJob, jobs: int = 1) -> Path:
    """Runs every member of a recipe's sweep, each in a folder of its own under the run's.

    Args:
        job: what to run.
        console: says what happens.
        run_job: runs a recipe without a sweep.
        jobs: how many members run side by side, each in a process of its own.

    Returns:
        The run's folder, complete. A member that fails is told there, and takes nothing from the others.
    """
    if jobs > 1 and world() > 1:
        raise ConfigError("--jobs and several processes that train together exclude each other", hint="--jobs 1")
    now = begun_recipe(job.recipe)
    if is_done(job, now, console):
        return job.target
    every = members_of(job)
    folder = RunFolder(job.target, job.recipe.name, job.overwrite, job.resume)
    begin(folder, now)
    job.write_given(folder)
    whole = count_members(job.recipe.sweep)
    if len(every) < whole:
        console.say(f"{len(every)} of {whole} members are run, so that each value is tried; all are checked")
    todo = {
        place: job_of(job, member, folder.path / member.name)
        for place, member in enumerate(every)
        if read_manifest(folder.path / member.name) is None  # else it was run before the sweep was interrupted
    }
    errors = [""] * len(every)
    outcomes = _in_turn(todo, every, console, run_job) if jobs <= 1 else _side_by_side(todo, console, run_job, jobs)
    for count, (place, error) in enumerate(outcomes, 1):
        errors[place] = error
        said = f"failed: {error}" if error else "done"
        console.say(f"member {count} of {len(every)}, {every[place].name}: {said}")
    trials = [
        Trial(member.name, member.values, None if error else read_run(folder.path / member.name), error)
        for member, error in zip(every, errors, strict=True)
    ]
    facts = {
        "recipe": job.recipe.name,
        "backbone": job.recipe.backbone.called,
        **job.facts,
        "members": [trial.name for trial in trials],
        "failed": [trial.name for trial in trials if trial.run is None],
    }
    sweep = Sweep(job.recipe.name, job.target, tuple(trials), folder.so_far(facts))
    folder.write_json("metrics.json", {"recipe": job.recipe.name, "members": [_told(sweep, trial) for trial in trials]})
    write_page(sweep_page(sweep, job.recipe.report.plots), folder.write_text)
    console.heading(f"{len(trials)} members")
    console.say(sweep_table(trials, sweep.scores))
    return folder.finish(facts)


def members_of(job: Job) -> list[Member]:
    """The members of a sweep that are run: all, or in a smoke run as many as it takes to try each value."""
    every = members(job.document, job.recipe.sweep)
    return every if job.smoke is None else job.smoke.some(every)


def job_of(job: Job, member: Member, target: Path) -> Job:
    """What is to be run of a member.

    Args:
        job: the sweep's.
        member: one of it.
        target: its folder.
    """
    overrides = (*job.overrides, *member.overrides())
    recipe = validate(member.document, prepare=job.smoke)
    return Job(member.document, recipe, overrides, target, resume=job.resume, smoke=job.smoke)


def _told(sweep: Sweep, trial: Trial) -> dict[str, Any]:
    found: dict[str, Any] = {"name": trial.name, "values": dict(trial.values)}
    if trial.run is None:
        return {**found, "status": "failed", "error": trial.error}
    means = {name: score.to_dict() for name, score in sweep.scores(trial).items()}
    return {**found, "status": "complete", "means": means, "seconds": trial.run.facts.get("seconds")}


def _in_turn(todo: Mapping[int, Job], every: Sequence[Member], console: Console, run_job: RunJob) -> Iterator[Outcome]:
    for place, job in todo.items():
        console.heading(every[place].name)
        yield place, _tried(job, console, run_job)


def _tried(job: Job, console: Console, run_job: RunJob) -> str:
    """Runs a job; gives why it failed, empty if it did not. What no one foresaw leaves its trace beside the folder."""
    try:
        run_job(job, console)
    except ComposeError as error:
        return str(error)
    except Exception as error:
        path = job.target.with_name(f"{job.target.name}.error.txt")
        path.write_text(traceback.format_exc(), "utf-8")
        return f"{type(error).__name__}: {error}"
    return ""


@dataclass
class Worker:
    """A process that runs one member.

    Args:
        place: of the member.
        process: what runs it.
        answer: where it says how it ended.
        started: when.
    """

    place: int
    process: BaseProcess
    answer: Connection
    started: float

    def error(self) -> str:
        """Why it failed; empty if it did not."""
        try:
            said: str = self.answer.recv()
        except EOFError:  # it died without a word
            self.process.join()
            return f"the process ended with exit code {self.process.exitcode}"
        self.process.join()
        return said


def _side_by_side(todo: Mapping[int, Job], console: Console, run_job: RunJob, jobs: int) -> Iterator[Outcome]:
    """As many members at a time; what each says stands in a file beside its folder."""
    context = _context()
    threads = max(1, (os.cpu_count() or 1) // jobs)
    waiting, running = list(todo.items()), list[Worker]()
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                place, job = waiting.pop(0)
                ours, theirs = context.Pipe(duplex=False)
                told = (run_job, job, threads, dict(os.environ), theirs)
                process = context.Process(target=_work, args=told, daemon=False)
                process.start()
                theirs.close()
                console.say(f"{job.target.name} begins; what it says is in {job.target.name}.log")
                running.append(Worker(place, process, ours, time.time()))
            ready = wait([worker.answer for worker in running])
            for worker in [worker for worker in running if worker.answer in ready]:
                running.remove(worker)
                yield worker.place, worker.error()
    finally:
        for worker in running:
            worker.process.terminate()
            worker.process.join()


def _context() -> ForkServerContext | SpawnContext:
    """Where forking is safe, members are forked from one process that has only imported what they need."""
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*ALL_IMPORT])
    return context


def _work(run_job: RunJob, job: Job, threads: int, environment: Mapping[str, str], answer: Connection) -> None:
    """What a worker does; an interruption is the parent's to deal with, who then ends it."""
    os.environ.clear()  # that of the process it was forked from may be older
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    with open(job.target.with_name(f"{job.target.name}.log"), "w", encoding="utf-8") as log:
        answer.send(_tried(job, Console(log), run_job))
    answer.close()
