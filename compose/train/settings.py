"""How to train, and how training went."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from compose.errors import ConfigError, Problem
from compose.runtime.batches import limit_problems

Scheduler = Literal["linear", "cosine", "constant"]

ClassWeights = Literal["balanced"] | Mapping[str, float]
"""`balanced`: each label weighs the less the more often it occurs; or a weight by label, 1 by default. Where a row has
several labels the weight is that of a label's yes against its no."""


@dataclass(frozen=True)
class EarlyStopping:
    """When to stop before the last epoch; the weights of the best epoch are kept.

    Args:
        patience: after how many epochs without a better score on the validation part.
        metric: the score: `mean`, of all tasks' main metrics, or a task and one of its metrics, as `topic.f1_macro`.

    Raises:
        ConfigError: a patience that is no whole number of at least 1.
    """

    patience: int = 3
    metric: str = "mean"

    def __post_init__(self) -> None:
        problems = _count_problems({"patience": self.patience})
        if problems:
            raise ConfigError(problems)


@dataclass(frozen=True)
class Settings:
    """How to train.

    Args:
        epochs: times that every row is seen.
        batch_size: the most rows that are run at a time; 16 where `batch_tokens` is not given either.
        learning_rate: at its highest.
        weight_decay: of matrices, but for fusions' value matrices and scales; biases and norms have none.
        warmup: share of the steps over which the learning rate rises.
        seed: of the order of rows, and of dropout.
        loss_weights: weight of a task's loss, 1 by default.
        batch_tokens: the most tokens that are run at a time, padding among them; a longer row is run alone. A step
            of long rows has fewer of them, so that each counts for more.
        checkpoint_steps: after how many steps a checkpoint is written, where there is one; after each epoch always.
        gradient_accumulation: how many times the rows of `batch_size` and the tokens of `batch_tokens` a step has. They
            are run in as many parts: the gradients of one large batch (dropout aside), in the memory of a small one.
        gradient_checkpointing: computes activations again in backward instead of keeping them: slower, in less memory.
        max_steps: the steps after which training ends, if there are more.
        scheduler: how the learning rate goes on after it has risen: it falls to 0 in a line (`linear`) or along half a
            cosine (`cosine`), or stays (`constant`).
        temperature: of the sampling of groups: 1 is in proportion to their rows, each row once an epoch; `math.inf`
            the same number of steps for each group; those between in proportion to n^(1/temperature).
        class_weights: by task, how much each label weighs in its loss.
        early_stopping: when to stop before the last epoch.
        log: loggers by the Trainer's names, as `tensorboard`.
        stride: what of the validation part is too long is read in windows that overlap by so many tokens; else it is
            cut. Of what is trained on, `row_groups` says so.

    Raises:
        ConfigError: with everything that is out of range.
    """

    epochs: int = 3
    batch_size: int | None = None
    learning_rate: float = 1e-4
    weight_decay: float = 0.0
    warmup: float = 0.1
    seed: int = 42
    loss_weights: Mapping[str, float] = field(default_factory=dict)
    batch_tokens: int | None = None
    checkpoint_steps: int | None = None
    gradient_accumulation: int = 1
    gradient_checkpointing: bool = False
    max_steps: int | None = None
    scheduler: Scheduler = "linear"
    temperature: float = 1.0
    class_weights: Mapping[str, ClassWeights] = field(default_factory=dict)
    early_stopping: EarlyStopping | None = None
    log: tuple[str, ...] = ()
    stride: int | None = None

    def __post_init__(self) -> None:
        problems = limit_problems(self.batch_size, self.batch_tokens)
        optional = {"checkpoint_steps": self.checkpoint_steps, "max_steps": self.max_steps}
        counts = {"epochs": self.epochs, "gradient_accumulation": self.gradient_accumulation}
        problems += _count_problems(counts | {name: value for name, value in optional.items() if value is not None})
        if self.scheduler not in get_args(Scheduler):
            what = f"there is no scheduler {self.scheduler!r}"
            problems.append(Problem(what, got=str(self.scheduler), legal=get_args(Scheduler)))
        if not isinstance(self.temperature, int | float) or math.isnan(self.temperature) or self.temperature < 1:
            problems.append(Problem(f"temperature={self.temperature!r}, but a number of at least 1 is needed"))
        if problems:
            raise ConfigError(problems)


@dataclass(frozen=True)
class History:
    """How training went.

    Args:
        losses: the mean loss of each epoch.
        steps: number of steps.
        seconds: time taken.
        epoch_seconds: of each epoch, its scores on the validation part included; the first also has what was prepared,
            such as filling a trunk cache.
        metrics: of each epoch, the scores on the validation part, by task and metric.
        best: the epoch whose weights were kept, counted from 1; None: those of the last.
    """

    losses: tuple[float, ...]
    steps: int
    seconds: float
    metrics: tuple[Mapping[str, Mapping[str, float]], ...] = ()
    best: int | None = None
    epoch_seconds: tuple[float, ...] = ()


def _count_problems(counts: Mapping[str, object]) -> list[Problem]:
    return [
        Problem(f"{name}={value!r}, but a whole number of at least 1 is needed")
        for name, value in counts.items()
        if not isinstance(value, int) or isinstance(value, bool) or value < 1
    ]
