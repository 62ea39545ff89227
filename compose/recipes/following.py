"""What the other processes do of a run that several train together: they train, and write nothing."""

from __future__ import annotations

from pathlib import Path

from compose.errors import ComposeError
from compose.recipes.console import Console
from compose.recipes.experiment import build
from compose.recipes.folder import checkpoint_in, is_interrupted, unfinished
from compose.recipes.job import Job
from compose.recipes.manifest import read_manifest, seed_folder
from compose.recipes.sweeping import job_of, members_of
from compose.recipes.training import Training


def follow(job: Job) -> Path:
    """Takes part in the training of a run, which another process writes down; gives the run's folder."""
    if job.recipe.sweep:
        for member in members_of(job):
            one = job_of(job, member, unfinished(job.target) / member.name)
            try:
                _unless_done(one)
            except ComposeError:  # which the first process tells of, and goes on with the next member
                continue
    else:
        _unless_done(job)
    return job.target


def _unless_done(job: Job) -> None:
    """Follows a run that is not complete yet; whoever goes on with a run looks at this before it begins."""
    if job.resume and not is_interrupted(job.target) and read_manifest(job.target) is not None:
        return
    if len(job.recipe.seeds) > 1:
        for seed in job.recipe.seeds:
            _unless_done(job.of_seed(seed, unfinished(job.target) / seed_folder(seed)))
        return
    one = job.first()
    training = Training(build(one.recipe, one.document), Console(quiet=True))
    for index in range(len(one.recipe.train)):
        training.stage(index, checkpoint_in(unfinished(job.target), index) if job.resume else None)
