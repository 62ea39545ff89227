"""How far a training is."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from compose.train.settings import History


@dataclass
class Progress:
    """How far a training is, and what it has seen.

    Args:
        done: steps that are done.
        losses: the mean loss of each epoch that is over.
        summed: of the losses in the epoch that is under way.
        steps: that it has had.
        seconds: that training has taken.
        epoch_seconds: that each epoch which is over has taken.
        finished: whether it is over.
        metrics: the scores on the validation part after each epoch, by task and metric.
        best: the epoch with the best score so far, counted from 1; None: nothing is stopped early.
        score: of that epoch.
    """

    done: int = 0
    losses: list[float] = field(default_factory=list)
    summed: float = 0.0
    steps: int = 0
    seconds: float = 0.0
    epoch_seconds: list[float] = field(default_factory=list)
    finished: bool = False
    metrics: list[dict[str, dict[str, float]]] = field(default_factory=list)
    best: int | None = None
    score: float | None = None

    def add(self, loss: float) -> None:
        """A step is done."""
        self.done, self.steps, self.summed = self.done + 1, self.steps + 1, self.summed + loss

    def end_epoch(self) -> None:
        """An epoch is over."""
        self.losses.append(self.summed / self.steps)
        self.summed, self.steps = 0.0, 0

    def history(self) -> History:
        """What is told of it in the end."""
        return History(
            tuple(self.losses), self.done, self.seconds, tuple(self.metrics), self.best, tuple(self.epoch_seconds)
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self)
