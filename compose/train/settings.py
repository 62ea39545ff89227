"""How to train, and how training went."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from compose.errors import ConfigError, Problem
from compose.runtime.batches import limit_problems


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
        checkpoint_steps: after how many steps a checkpoint is written, where there is one; after each epoch always.

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
    checkpoint_steps: int | None = None

    def __post_init__(self) -> None:
        problems = limit_problems(self.batch_size, self.batch_tokens)
        counts = {"epochs": self.epochs, **self._optional()}
        problems += [
            Problem(f"{name}={value!r}, but a whole number of at least 1 is needed")
            for name, value in counts.items()
            if not isinstance(value, int) or isinstance(value, bool) or value < 1
        ]
        if problems:
            raise ConfigError(problems)

    def _optional(self) -> dict[str, object]:
        """The counts that are given."""
        named = {"checkpoint_steps": self.checkpoint_steps}
        return {name: value for name, value in named.items() if value is not None}


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
