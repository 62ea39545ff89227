"""The steps of a training, and how the rows of one are divided among processes and passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from compose.runtime.batches import batches, step_limits
from compose.train.epochs import epochs
from compose.train.rows import RowGroup
from compose.train.settings import Settings


@dataclass(frozen=True)
class Step:
    """What one step trains on, of all processes together.

    Args:
        epoch: counted from 0.
        group: the rows' group.
        places: their places in it.
    """

    epoch: int
    group: int
    places: tuple[int, ...]


class Schedule:
    """Every step of a training, in order; for the same rows and settings the same ones.

    Args:
        groups: the rows.
        settings: how to train.
    """

    def __init__(self, groups: Sequence[RowGroup], settings: Settings) -> None:
        self.lengths = [group.lengths for group in groups]
        self.limits = step_limits(settings.batch_size, settings.batch_tokens)
        times = settings.gradient_accumulation
        rows, tokens = (None if limit is None else limit * times for limit in self.limits)
        drawn = epochs(self.lengths, settings.epochs, settings.seed, rows, tokens, settings.temperature)
        self.steps = [
            Step(epoch, group, tuple(places)) for epoch, steps in enumerate(drawn) for group, places in steps
        ][: settings.max_steps]

    def ends_epoch(self, done: int) -> bool:
        """Whether an epoch ends with the step that makes `done` of them."""
        return done == len(self.steps) or self.steps[done].epoch != self.steps[done - 1].epoch

    def passes(self, step: Step, rank: int, world: int) -> list[list[int]]:
        """The places of the rows of each pass that a process runs of a step; none of more than the limits allow.

        Args:
            step: the step.
            rank: the process's number.
            world: how many there are.
        """
        own = step.places[rank::world]
        lengths = [self.lengths[step.group][place] for place in own]
        return [[own[index] for index in batch] for batch in batches(lengths, *self.limits)]
