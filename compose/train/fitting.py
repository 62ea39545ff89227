"""What happens around the steps of a training: scores after each epoch, checkpoints, and when it ends."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from compose.errors import ConfigError, Problem
from compose.train.checkpoint import Checkpoint, Identity
from compose.train.data import Example
from compose.train.evaluate import Scores, evaluate, kind_of
from compose.train.loggers import check_loggers
from compose.train.metrics import ERRORS, MAIN, METRICS
from compose.train.optimizer import make_optimizer, make_schedule
from compose.train.processes import rank
from compose.train.progress import Progress
from compose.train.random_state import seed_all
from compose.train.settings import EarlyStopping
from compose.train.trainer import Steps, StepTrainer, Told
from compose.train.work import Work

if TYPE_CHECKING:
    from compose.runtime.model import Model

OnStep = Callable[[int, int, float], None]
"""Told after each step: steps done, steps in all, the loss."""

LOG_STEPS = 10
"""Steps between two that loggers are told of."""


class Fitting:
    """A training under way.

    Args:
        work: computes the gradients of steps.
        trained: what is trained.
        validation: what is scored after each epoch, by task.
        checkpoint: the file that keeps the state.
        on_step: told after each step.
        started: when it began, by `time.perf_counter`.

    Raises:
        ConfigError: training is to stop early by what there is not, a logger is missing, or the checkpoint is of
            another training.
        FileError: the checkpoint is damaged.
    """

    def __init__(
        self,
        work: Work,
        trained: Sequence[nn.Parameter],
        validation: Mapping[str, Sequence[Example]],
        checkpoint: Path | None,
        on_step: OnStep | None,
        started: float,
    ) -> None:
        self.work, self.model, self.plan, self.settings = work, work.model, work.plan, work.settings
        self.validation, self.on_step = validation, on_step
        self.early = self.settings.early_stopping
        if self.early is not None:
            check_early_stopping(self.early, self.model, validation)
        check_loggers(self.settings.log)
        self.steps = work.schedule.steps
        self.optimizer = make_optimizer(self.model, trained, self.settings)
        self.schedule = make_schedule(self.optimizer, len(self.steps), self.settings)
        self.best: dict[str, Tensor] = {}
        self.file, found = None, None
        if checkpoint is not None:
            self.file = Checkpoint(checkpoint, Identity.of(self.model, self.plan, work.groups, self.settings))
            found = self.file.load(self.model, self.optimizer, self.schedule, self.best)
        self.resumed = found is not None
        self.progress = found or Progress()
        self._start = started - self.progress.seconds

    def run(self, folder: Path) -> None:
        """Does the steps that are left.

        Args:
            folder: where loggers write.
        """
        done = self.progress.done
        steps = Steps(done, self._begin, self._end)
        optimizers = (self.optimizer, self.schedule)
        StepTrainer(self.work, self.steps[done:], done, optimizers, folder, steps, self.settings.log).train()

    def _begin(self) -> None:
        seed_all(self.model, self.settings.seed)
        if self.file is not None and self.resumed:
            self.file.restore_random(self.model)
        if rank():  # rows of other processes have other dropout
            torch.manual_seed(self.settings.seed + 1000003 * rank() + self.progress.done)

    def _end(self, loss: float) -> Told:
        progress, schedule = self.progress, self.work.schedule
        progress.add(loss)
        logs = {"loss": loss, "learning_rate": float(self.schedule.get_last_lr()[0])} if self._logs() else {}
        over = schedule.ends_epoch(progress.done)
        stop = progress.done == len(self.steps)
        if over:
            progress.end_epoch()
            logs |= self._score()
            stop = stop or self._waited_enough()
        progress.finished, progress.seconds = stop, time.perf_counter() - self._start
        if over:
            progress.epoch_seconds.append(progress.seconds - sum(progress.epoch_seconds))
        if stop and self.best:
            self.model.load_state_dict(self.best)
        every = self.settings.checkpoint_steps
        if self.file is not None and (over or (every is not None and progress.done % every == 0)):
            self.file.save(self.model, self.optimizer, self.schedule, progress, self.best)
        if self.on_step is not None:
            self.on_step(progress.done, len(self.steps), loss)
        return Told(stop, self.settings.epochs * progress.done / len(self.steps), logs)

    def _logs(self) -> bool:
        return bool(self.settings.log) and (self.progress.done - 1) % LOG_STEPS == 0

    def _score(self) -> dict[str, float]:
        """Scores the validation part, and keeps the weights if they are the best so far."""
        if not self.validation:
            return {}
        progress, scores = self.progress, evaluate(self.plan, self.validation, stride=self.settings.stride)
        progress.metrics.append(scores)
        if self.early is not None:
            found = early_score(self.early, scores, self.model)
            if progress.score is None or found > progress.score:
                progress.best, progress.score = len(progress.losses), found
                self.best = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        logged = {f"eval_{task}_{name}": value for task, found in scores.items() for name, value in found.items()}
        return logged if self.settings.log else {}

    def _waited_enough(self) -> bool:
        best = self.progress.best
        return self.early is not None and best is not None and len(self.progress.losses) - best >= self.early.patience


def early_score(early: EarlyStopping, scores: Mapping[str, Scores], model: Model) -> float:
    """The one number that is to grow."""
    if early.metric == "mean":
        return statistics.fmean(found[MAIN[kind_of(model.heads[task])]] for task, found in scores.items())
    task, _, metric = early.metric.rpartition(".")
    return -scores[task][metric] if metric in ERRORS else scores[task][metric]


def check_early_stopping(early: EarlyStopping, model: Model, validation: Mapping[str, Any]) -> None:
    """ConfigError: training is to stop early, but there is nothing to tell when."""
    if not validation:
        raise ConfigError("early stopping needs a validation part", hint="validation={task: examples}")
    legal = [f"{task}.{metric}" for task in validation for metric in METRICS[kind_of(model.heads[task])]]
    if early.metric != "mean" and early.metric not in legal:
        what = f"there is no metric '{early.metric}' to stop early by"
        raise ConfigError([Problem(what, got=early.metric, legal=("mean", *legal))])
