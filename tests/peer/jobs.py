"""What a recipe's stages are as jobs for `train.py`: the same rows in the same steps, with the same settings."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from compose.dsl import as_expression
from compose.errors import ConfigError, Problem
from compose.recipes.evaluated import sources_of
from compose.recipes.experiment import Experiment
from compose.recipes.schema import Stage
from compose.recipes.training import settings_of
from compose.runtime.attach import locate_backbone
from compose.runtime.texts import longest
from compose.train.data import Example
from compose.train.evaluate import Scores, answered
from compose.train.rows import row_groups
from compose.train.steps import Schedule
from compose.train.trainer import MAX_NORM

WORKER = Path(__file__).with_name("train.py")

Start = Literal["own", "compose"]
"""Whose weights a job begins with: such as the peer draws itself, or those that compose begins with."""

PLAIN: Mapping[str, Any] = {
    "regime": "adapters",
    "train_layer_norms": False,
    "loss_weights": {},
    "gradient_accumulation": 1,
    "scheduler": "linear",
    "class_weights": {},
    "early_stopping": None,
}
"""What a stage must say, since the peer's program does nothing else."""

PREDICTION = {"classification": "label", "tagging": "tags"}
"""Where an answer stands in a prediction of ours, by kind of head."""


@dataclass(frozen=True)
class Job:
    """One training of the peer's.

    Args:
        task: what is learned.
        folder: where it is written, and answered.
        content: what `job.json` holds.
    """

    task: str
    folder: Path
    content: str

    @property
    def digest(self) -> str:
        """The sha256 of its content; answers carry it."""
        return hashlib.sha256(self.content.encode()).hexdigest()

    def answers(self) -> dict[str, Any] | None:
        """What the peer found; None if it has not done this job yet."""
        try:
            found = json.loads((self.folder / "answers.json").read_text("utf-8"))
        except FileNotFoundError:
            return None
        return found if found["job"] == self.digest else None


def make_jobs(experiment: Experiment, folder: Path, start: Start = "own", exact: int | None = None) -> list[Job]:
    """Writes a job for each stage of an experiment, in a folder of its task's name.

    Args:
        experiment: as it is before training.
        folder: where to.
        start: whose weights they begin with.
        exact: train so many steps only, without dropout, and answer nothing.

    Raises:
        ConfigError: stages that the peer's program cannot do.
    """
    stages = experiment.recipe.train
    problems = [problem for index, stage in enumerate(stages) for problem in _problems(experiment, stage, index)]
    if problems:
        raise ConfigError(problems)
    return [_job(experiment, stage, index, folder, start, exact) for index, stage in enumerate(stages)]


def do_jobs(peer: str, jobs: Sequence[Job], threads: int) -> None:
    """Has the peer do the jobs that it has not done, all in one process.

    Args:
        peer: its interpreter.
        jobs: the jobs.
        threads: how many it computes with.

    Raises:
        ConfigError: it failed.
    """
    left = [str(job.folder) for job in jobs if job.answers() is None]
    if not left:
        return
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    command = [peer, "-W", "ignore", str(WORKER), *left]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError("the peer's training failed", why=done.stderr.strip()[-2000:])


def peer_scores(experiment: Experiment, job: Job, found: Mapping[str, Any]) -> Scores:
    """The scores of the peer's answers, by compose's own metrics."""
    head = experiment.model.heads[job.task]
    key = PREDICTION[head.config.kind]
    return answered(head, _test(experiment, job.task), [{key: each} for each in found["answers"]]).scores()


def _problems(experiment: Experiment, stage: Stage, index: int) -> Iterator[Problem]:
    where = f"train.{index}"
    if not isinstance(as_expression(stage.expression), str):
        yield Problem(f"the peer trains one adapter, not {stage.expression}", where=where)
    elif experiment.model.heads[stage.expression].config.kind not in PREDICTION:
        yield Problem("the peer's program has no such head", where=where, legal=tuple(PREDICTION))
    elif any(isinstance(each.target, tuple) != isinstance(each.input, list) for each in _train(experiment, stage)):
        yield Problem("the peer's program reads tags of words, and no other lists of labels", where=where)
    for key, value in PLAIN.items():
        if getattr(stage, key) != value:
            yield Problem(f"the peer's program knows no {key} but {value}", where=f"{where}.{key}")


def _job(experiment: Experiment, stage: Stage, index: int, folder: Path, start: Start, exact: int | None) -> Job:
    model, task, settings = experiment.model, stage.expression, settings_of(experiment, stage, index)
    settings = settings if exact is None else replace(settings, max_steps=exact)
    examples = experiment.stage_examples(stage)
    steps = Schedule(row_groups(model, examples), settings).steps
    content = {
        "backbone": locate_backbone(experiment.recipe.backbone.name),
        "max_length": longest(model.tokenizer, model.backbone),
        "start": start,
        "dropout": exact is None,
        "seed": settings.seed,
        "settings": {
            "learning_rate": settings.learning_rate,
            "warmup": settings.warmup,
            "weight_decay": settings.weight_decay,
            "max_norm": MAX_NORM,
        },
        "steps": [[step.places for step in epoch] for _, epoch in groupby(steps, key=lambda step: step.epoch)],
        "train": [{**_input(example), "target": example.target} for example in examples[task]],
        "test": [_input(example) for example in (_test(experiment, task) if exact is None else ())],
    }
    job = Job(task, folder / task, json.dumps(content, ensure_ascii=False))
    model.save_adapter(task, job.folder / "files", with_head=True, format="adapterhub")
    (job.folder / "job.json").write_text(job.content, "utf-8")
    return job


def _train(experiment: Experiment, stage: Stage) -> tuple[Example, ...]:
    return experiment.stage_examples(stage)[stage.expression]


def _test(experiment: Experiment, task: str) -> tuple[Example, ...]:
    return experiment.test_examples({task: sources_of(experiment.recipe.evaluate.data, task)[0]})[task]


def _input(example: Example) -> dict[str, Any]:
    return {"input": example.input, "words": isinstance(example.input, list)}
