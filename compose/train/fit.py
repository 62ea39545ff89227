"""Training: a plan, rows and settings to a trained model, the same one for the same seed."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from compose.errors import ConfigError
from compose.heads.vocabulary import counted_only
from compose.train.class_weights import weighing
from compose.train.data import Example
from compose.train.extras import require
from compose.train.loss import trained_parameters
from compose.train.rows import RowGroup
from compose.train.settings import ClassWeights, EarlyStopping, History, Settings
from compose.train.trunk_cache import TrunkCache
from compose.train.work import Work

if TYPE_CHECKING:
    from compose.runtime.model import Model
    from compose.runtime.runnable import RunnablePlan

__all__ = ["ClassWeights", "EarlyStopping", "History", "OnStep", "Settings", "fit"]

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
    validation: Mapping[str, Sequence[Example]] | None = None,
    log_folder: str | Path | None = None,
) -> History:
    """Trains whatever of a model asks for gradients; `model.train_only` says what.

    The loop is transformers' Trainer on accelerate. Where `torchrun` or `accelerate launch` started several processes,
    each of them calls this, they divide the rows of each step, and all end with the same weights.

    Args:
        model: the model.
        plan: what to run.
        groups: the rows, by the tasks they have labels of. Steps of several groups alternate in
            random order, each group as often as its size, or `temperature`, says.
        settings: how to train.
        on_step: told after each step.
        cache: keeps what layers below the first that adapters reach make of the texts, so that these run
            once only. There is no dropout in them then.
        checkpoint: a file that holds the training's state after each epoch, and after `checkpoint_steps` of them.
            If it is there, training goes on from it, to the same weights to the bit on a CPU.
        validation: examples by task that are scored after each epoch.
        log_folder: where loggers write that write files.

    Returns:
        How it went.

    Raises:
        ConfigError: nothing asks for gradients, settings do not fit the tasks, the checkpoint is of another training,
            a cache for tasks whose texts are masked, or `accelerate` is not installed.
        FileError: the checkpoint is damaged.
        InputError: a loss that is not finite; a cache for a plan without a trunk.
    """
    trained = trained_parameters(model)
    if not trained:
        raise ConfigError("nothing is to be trained", hint="model.train_only(...)")
    require("accelerate")
    from compose.train.fitting import Fitting

    started = time.perf_counter()
    work = Work(model, plan, groups, settings, cache)
    heads = [model.heads[task] for group in groups for task in group.tasks if task in model.heads]
    weighed, recomputed = weighing(model, groups, settings.class_weights), _recomputing(model, settings)
    with weighed, recomputed, counted_only(heads):
        work.fill_cache()
        fitting = Fitting(work, trained, validation or {}, Path(checkpoint) if checkpoint else None, on_step, started)
        if not fitting.progress.finished:
            with tempfile.TemporaryDirectory() as own:
                fitting.run(Path(log_folder or own))
    model.zero_grad()  # where a gradient waits, what is kept of its weight is compared at each call
    model.eval()
    return fitting.progress.history()


@contextmanager
def _recomputing(model: Model, settings: Settings) -> Iterator[None]:
    """Gradient checkpointing for a while, if it is wanted and is not there anyway."""
    there = any(getattr(module, "gradient_checkpointing", False) for module in model.backbone.modules())
    if not settings.gradient_checkpointing or there:
        yield
        return
    model.activation_checkpointing_enable()
    try:
        yield
    finally:
        model.activation_checkpointing_disable()
