"""Training: a plan, rows and settings to a trained model, the same one for the same seed."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from compose.errors import ConfigError
from compose.train.checkpoint import Checkpoint, Identity
from compose.train.extras import require
from compose.train.optimizer import make_optimizer, make_schedule
from compose.train.processes import is_first, rank
from compose.train.progress import Progress
from compose.train.random_state import seed_all
from compose.train.rows import RowGroup
from compose.train.settings import History, Settings
from compose.train.trunk_cache import TrunkCache
from compose.train.work import Work

if TYPE_CHECKING:
    from compose.runtime.model import Model
    from compose.runtime.runnable import RunnablePlan

__all__ = ["History", "OnStep", "Settings", "fit"]

OnStep = Callable[[int, int, float], None]
"""Told after each step: steps done, steps in all, the loss."""


def fit(
    model: Model,
    plan: RunnablePlan,
    groups: Sequence[RowGroup],
    settings: Settings,
    on_step: OnStep | None = None,
    cache: TrunkCache | None = None,
    checkpoint: str | Path | None = None,
) -> History:
    """Trains whatever of a model asks for gradients; `model.train_only` says what.

    Args:
        model: the model.
        plan: what to run.
        groups: the rows, by the tasks they have labels of. Steps of several groups alternate in
            random order, each group as often as its size says.
        settings: how to train.
        on_step: told after each step.
        cache: keeps what layers below the first that adapters reach make of the texts, so that these run
            once only. There is no dropout in them then.
        checkpoint: a file that holds the training's state after each epoch, and after `checkpoint_steps` of them.
            If it is there, training goes on from it, to the same weights to the bit on a CPU.

    Returns:
        How it went.

    Raises:
        ConfigError: nothing asks for gradients, the checkpoint is of another training, or `accelerate` is not
            installed.
        FileError: the checkpoint is damaged.
        InputError: a loss that is not finite; a cache for a plan without a trunk.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        raise ConfigError("nothing is to be trained", hint="model.train_only(...)")
    require("accelerate")
    from compose.train.trainer import Steps, StepTrainer

    work = Work(model, plan, groups, settings, cache)
    work.fill_cache()
    optimizer = make_optimizer(model, trained, settings)
    steps = work.schedule.steps
    schedule = make_schedule(optimizer, len(steps), settings)
    file, found = None, None
    if checkpoint is not None:
        file = Checkpoint(Path(checkpoint), Identity.of(model, plan, groups, settings))
        found = file.load(model, optimizer, schedule)
    progress = found or Progress()
    if progress.finished:
        model.eval()
        return progress.history()
    watch = Stopwatch(progress.seconds)

    def begin() -> None:
        seed_all(model, settings.seed + progress.done * rank(), rank())
        if file is not None and found is not None and is_first():
            file.restore_random(model)

    def end(loss: float) -> bool:
        progress.add(loss)
        over = work.schedule.ends_epoch(progress.done)
        if over:
            progress.end_epoch()
        progress.seconds, progress.finished = watch.seconds(), progress.done == len(steps)
        every = settings.checkpoint_steps
        if file is not None and (over or (every is not None and progress.done % every == 0)):
            file.save(model, optimizer, schedule, progress)
        if on_step is not None:
            on_step(progress.done, len(steps), loss)
        return progress.finished

    with tempfile.TemporaryDirectory() as folder:
        told = Steps(progress.done, begin, end)
        StepTrainer(work, steps[progress.done :], progress.done, (optimizer, schedule), Path(folder), told).train()
    model.eval()
    return progress.history()


class Stopwatch:
    """Seconds since it was made, and some before.

    Args:
        before: those that are counted already.
    """

    def __init__(self, before: float = 0.0) -> None:
        self.before, self.start = before, time.perf_counter()

    def seconds(self) -> float:
        """How many."""
        return self.before + time.perf_counter() - self.start
