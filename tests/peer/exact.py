"""The first steps of a training from the same weights and without dropout: then nothing differs but the library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from compose.recipes.experiment import Experiment
from compose.recipes.training import settings_of
from compose.train.fit import fit
from compose.train.rows import row_groups
from tests.peer.jobs import Job, do_jobs

STEPS = 8
"""Of each training."""


def same_steps(experiment: Experiment, jobs: Sequence[Job], peer: str, threads: int) -> dict[str, Any]:
    """The losses of the first steps of each stage, by compose and by the peer.

    Args:
        experiment: as it is before training; it is trained.
        jobs: its stages, begun with its weights, of `STEPS` steps without dropout.
        peer: the interpreter that has `adapters`.
        threads: how many the peer computes with.
    """
    do_jobs(peer, jobs, threads)
    model = experiment.model
    for part in (model.backbone, model.adapters, model.heads):
        for module in part.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
    found = {}
    for index, (stage, job) in enumerate(zip(experiment.recipe.train, jobs, strict=True)):
        answers = job.answers()
        assert answers is not None
        theirs = [loss for epoch in answers["step_losses"] for loss in epoch]
        ours = _losses(experiment, index)
        apart = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
        found[stage.expression] = {"compose": ours, "peer": theirs, "largest_difference": apart}
    return {"steps": STEPS, "seed": experiment.recipe.seed, "tasks": found}


def _losses(experiment: Experiment, index: int) -> list[float]:
    """The loss of each of the first steps of a stage."""
    model, stage = experiment.model, experiment.recipe.train[index]
    plan = experiment.plan(("train", index, "expression"), stage.expression)
    model.train_only(plan.expression)
    settings = replace(settings_of(experiment, stage, index), max_steps=STEPS)
    losses: list[float] = []
    fit(
        model, plan, row_groups(model, experiment.stage_examples(stage)), settings, lambda *told: losses.append(told[2])
    )
    model.requires_grad_(False)
    return losses
