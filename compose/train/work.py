"""One step of training: its rows in as many passes as they need, and the gradients of all of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from compose.compile import draw_drops
from compose.errors import ConfigError, InputError
from compose.runtime.batches import batches, default_tokens
from compose.runtime.rows import route_names
from compose.train.collator import TaskCollator
from compose.train.loss import Part, TrainedPlan, shares, weighted
from compose.train.processes import rank, world
from compose.train.room import Room
from compose.train.rows import RowGroup, apart
from compose.train.settings import Settings
from compose.train.steps import Schedule, Step
from compose.train.trunk_cache import TrunkCache

if TYPE_CHECKING:
    from compose.runtime.model import Model
    from compose.runtime.runnable import RunnablePlan


class Work:
    """What the steps of a training need.

    Args:
        model: the model.
        plan: what to run.
        groups: the rows.
        settings: how to train.
        cache: keeps the trunk's states.

    Raises:
        ConfigError: there is a cache, but rows are masked anew each time.
    """

    def __init__(
        self,
        model: Model,
        plan: RunnablePlan,
        groups: Sequence[RowGroup],
        settings: Settings,
        cache: TrunkCache | None = None,
    ) -> None:
        self.routed = bool(route_names(plan.plan))
        self.groups = apart(groups) if self.routed else list(groups)  # a row goes one way only
        self.model, self.plan, self.settings, self.cache = model, plan, settings, cache
        if cache is not None and (masked := [task for group in groups if group.masking for task in group.tasks]):
            raise ConfigError(
                f"a trunk cache cannot serve the task '{masked[0]}'",
                why="its texts are masked anew at each step, so that nothing that was kept would be read again",
                hint="no trunk_cache",
            )
        self.schedule = Schedule(self.groups, settings)
        self.module = TrainedPlan(plan)
        self._room = Room()
        self._heads = dict(model.heads.items())
        self._collators = [TaskCollator(model.tokenizer, self._heads, tasks=group.tasks) for group in self.groups]

    def fill_cache(self) -> None:
        """Computes the trunk's states of all rows, in batches of one length that depend on the rows alone.

        So states are the same to the bit, whichever step asks for them first.
        """
        if self.cache is None:
            return
        for group, lengths in zip(self.groups, self.schedule.lengths, strict=True):
            collate = TaskCollator(self.model.tokenizer)
            for places in batches(lengths, batch_tokens=default_tokens(self.model.device.type)):
                rows = [{k: v for k, v in group.rows[place].items() if k != "labels"} for place in places]
                self.cache.states(self.plan, self._on_device(collate(rows)), self._room)

    def run(self, module: nn.Module, step: Step, number: int, accelerator: Any) -> Tensor:
        """Computes the gradients of a step.

        Args:
            module: the `TrainedPlan`, as the accelerator wraps it.
            step: the rows.
            number: of the step, counted from 1.
            accelerator: of the Trainer.

        Returns:
            The loss of the whole step, a scalar.

        Raises:
            InputError: the loss is not finite.
        """
        if not self.model.training:
            self.model.train()
        plan = self._drawn()
        total = torch.zeros((), device=self.model.device)
        cooling = [each for each in self.model.fusions.modules() if getattr(each, "temperature", None) is not None]
        kept = [each.temperature for each in cooling]
        for part in self._parts(step, number):  # one after the other: they share the room for the trunk's states
            with nullcontext() if part.last else accelerator.no_sync(module):
                loss = module(part, plan)
                accelerator.backward(loss)
            total = total + loss.detach()
            if not part.last:  # a step counts once, however many passes it takes
                for each, temperature in zip(cooling, kept, strict=True):
                    each.temperature = temperature
        value: Tensor = accelerator.reduce(total, "mean") if world() > 1 else total
        if not math.isfinite(float(value)):
            what = f"the loss is {float(value)} at step {number}, so training stopped"
            raise InputError(what, hint="a lower learning rate")
        return value

    def _drawn(self) -> RunnablePlan:
        """The plan of a step: layers that are dropped at random are drawn once for all its passes."""
        expression = draw_drops(self.plan.expression, self.model.drop_generator)
        same = expression is self.plan.expression
        return self.plan if same else self.model.plan(expression, self.plan.without)

    def _parts(self, step: Step, number: int) -> Iterator[Part]:
        group, collate, processes = self.groups[step.group], self._collators[step.group], world()
        own = self.schedule.passes(step, rank(), processes)
        divided = processes > 1 or len(own) > 1
        whole = self._counts(collate(self._rows(group, step.places, number))["labels"]) if divided else {}
        # A process without rows takes part all the same: the others wait for its gradients, which are zeros.
        for index, places in enumerate(own or [[step.places[0]]]):
            batch = collate(self._rows(group, places, number))
            labels = batch.pop("labels")
            part = shares(whole, self._counts(labels)) if divided else {}
            share = {task: value * processes if own else 0.0 for task, value in part.items()}
            inputs = self._on_device(batch)
            yield Part(
                inputs,
                labels,
                group.tasks,
                weighted(share, self.settings.loss_weights, group.tasks),
                list(group.tasks) * len(places) if self.routed else None,
                None if self.cache is None else self.cache.states(self.plan, inputs, self._room),
                index == max(len(own), 1) - 1,
            )

    def _rows(self, group: RowGroup, places: Sequence[int], number: int) -> list[dict[str, Any]]:
        return [group.drawn(place, self.settings.seed, number) for place in places]

    def _counts(self, labels: Mapping[str, Tensor]) -> dict[str, float]:
        """How many labels each task's loss is the mean over."""
        return {task: self._heads[task].counted(each) for task, each in labels.items()}

    def _on_device(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value.to(self.model.device) for name, value in batch.items()}
