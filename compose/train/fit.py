"""A plain training loop: AdamW, a rate that warms up and falls, the same result for the same seed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from compose.dsl import fuses, own_name
from compose.errors import ConfigError, InputError, Problem
from compose.runtime.batches import limit_problems, step_limits
from compose.train.collator import TaskCollator
from compose.train.epochs import epochs
from compose.train.rows import RowGroup
from compose.train.trunk_cache import TrunkCache

if TYPE_CHECKING:
    from compose.runtime.model import Model
    from compose.runtime.runnable import RunnablePlan

OnStep = Callable[[int, int, float], None]
"""Told after each step: steps done, steps in all, the loss."""

MAX_NORM = 1.0
"""Gradients are cut to this norm."""


@dataclass(frozen=True)
class Settings:
    """How to train.

    Args:
        epochs: times that every row is seen.
        batch_size: the most rows of a step; 16 where `batch_tokens` is not given either.
        learning_rate: at its highest.
        weight_decay: of matrices, but for fusions' value matrices and scales; biases and norms have none.
        warmup: share of the steps over which the learning rate rises; then it falls to 0.
        seed: of the order of rows, and of dropout.
        loss_weights: weight of a task's loss, 1 by default.
        batch_tokens: the most tokens of a step, padding among them; a longer row is a step of its own. A step
            of long rows has fewer of them, so that each counts for more.

    Raises:
        ConfigError: epochs or a limit that is no whole number of at least 1.
    """

    epochs: int = 3
    batch_size: int | None = None
    learning_rate: float = 1e-4
    weight_decay: float = 0.0
    warmup: float = 0.1
    seed: int = 42
    loss_weights: Mapping[str, float] = field(default_factory=dict)
    batch_tokens: int | None = None

    def __post_init__(self) -> None:
        problems = limit_problems(self.batch_size, self.batch_tokens)
        if not isinstance(self.epochs, int) or isinstance(self.epochs, bool) or self.epochs < 1:
            problems.append(Problem(f"epochs={self.epochs!r}, but a whole number of at least 1 is needed"))
        if problems:
            raise ConfigError(problems)


@dataclass(frozen=True)
class History:
    """How training went.

    Args:
        losses: the mean loss of each epoch.
        steps: number of steps.
        seconds: time taken.
    """

    losses: tuple[float, ...]
    steps: int
    seconds: float


def fit(
    model: Model,
    plan: RunnablePlan,
    groups: Sequence[RowGroup],
    settings: Settings,
    on_step: OnStep | None = None,
    cache: TrunkCache | None = None,
) -> History:
    """Trains whatever of a model asks for gradients; `model.train_only` says what.

    Args:
        model: the model.
        plan: what to run.
        groups: the rows, by the tasks they have labels of. Steps of several groups alternate in
            random order, each group as often as its size says.
        settings: how to train.
        on_step: told after each step.
        cache: keeps what layers below the first that adapters reach make of the texts, so that these run in the
            first epoch only. There is no dropout in them then.

    Returns:
        How it went.

    Raises:
        ConfigError: nothing asks for gradients.
        InputError: a loss that is not finite; a cache for a plan without a trunk.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        raise ConfigError("nothing is to be trained", hint="model.train_only(...)")
    torch.manual_seed(settings.seed)
    model.drop_generator.seed(settings.seed)
    optimizer = _optimizer(model, trained, settings)
    heads = dict(model.heads.items())
    collators = [TaskCollator(model.tokenizer, heads, tasks=group.tasks) for group in groups]
    lengths = [[len(row["input_ids"]) for row in group.rows] for group in groups]
    wanted = settings.epochs, settings.seed, *step_limits(settings.batch_size, settings.batch_tokens)
    total = sum(len(steps) for steps in epochs(lengths, *wanted))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _rise_and_fall(total, settings.warmup))
    model.train()
    losses: list[float] = []
    start, done = time.perf_counter(), 0
    for steps in epochs(lengths, *wanted):
        summed = 0.0
        for index, places in steps:
            rows = [groups[index].rows[place] for place in places]
            loss = _loss(model, plan, collators[index](rows), groups[index].tasks, settings, cache)
            value = float(loss.detach())
            if not math.isfinite(value):
                raise InputError(
                    f"the loss is {value} at step {done + 1}, so training stopped",
                    hint="a lower learning rate",
                )
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, MAX_NORM)
            optimizer.step()
            schedule.step()
            summed, done = summed + value, done + 1
            if on_step is not None:
                on_step(done, total, value)
        losses.append(summed / len(steps))
    optimizer.zero_grad()
    model.eval()
    return History(tuple(losses), done, time.perf_counter() - start)


def _optimizer(model: Model, trained: Sequence[Tensor], settings: Settings) -> torch.optim.Optimizer:
    """AdamW; what does not decay: biases, norms, and what fusions except: value matrices, scales."""
    drawn = {id(parameter) for _, fusion in model.fusions.items() for parameter in fusion.undecayed()}
    matrices = [parameter for parameter in trained if parameter.dim() > 1 and id(parameter) not in drawn]
    others = [parameter for parameter in trained if parameter.dim() <= 1 or id(parameter) in drawn]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate)


def _rise_and_fall(total: int, warmup: float) -> Callable[[int], float]:
    rising = max(1, round(total * warmup))

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        return max(0.0, (total - step) / max(1, total - rising))

    return factor


def _loss(
    model: Model,
    plan: RunnablePlan,
    batch: dict[str, Any],
    tasks: Sequence[str],
    settings: Settings,
    cache: TrunkCache | None,
) -> Tensor:
    labels = batch.pop("labels")
    inputs = {name: value.to(model.device) for name, value in batch.items()}
    weights: dict[str | int, float] = {
        task: settings.loss_weights[task] for task in tasks if task in settings.loss_weights
    }
    trunk = None if cache is None else cache.states(plan, inputs)
    loss = plan(**inputs, labels=labels, tasks=list(tasks), loss_weights=weights, trunk_states=trunk).loss
    assert loss is not None  # every row has labels
    for name in dict.fromkeys(own_name(fuse) or "" for fuse in fuses(plan.expression)):
        fusion = model.fusions[name]
        if any(parameter.requires_grad for parameter in fusion.parameters()):
            loss = loss + fusion.regularization_loss()
    return loss
