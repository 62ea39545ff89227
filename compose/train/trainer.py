"""The loop itself: the Trainer of transformers, over steps that are known beforehand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.integrations import TensorBoardCallback

from compose.train.loggers import TENSORBOARD
from compose.train.processes import is_first
from compose.train.steps import Step
from compose.train.work import Work

MAX_NORM = 1.0
"""Gradients are cut to this norm."""


class Arguments(TrainingArguments):
    """A model trains where it is."""

    place_model_on_device = False


@dataclass(frozen=True)
class Told:
    """What a step comes to.

    Args:
        stop: whether training ends with it.
        epoch: how many epochs are done.
        logs: what loggers are told.
    """

    stop: bool
    epoch: float
    logs: dict[str, float]


class Steps(TrainerCallback):
    """Follows a training from step to step.

    Args:
        done: steps that were done before.
        begin: called before the first step.
        end: called after each one with its loss.
    """

    def __init__(self, done: int, begin: Callable[[], None], end: Callable[[float], Told]) -> None:
        self.done, self.begin, self.end = done, begin, end
        self.loss = 0.0
        self.log: Callable[[dict[str, float]], None] = lambda logs: None
        self._begun = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        state.global_step = self.done

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self._begun:
            self._begun = True
            self.begin()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        told = self.end(self.loss)
        state.epoch = told.epoch
        if told.logs:
            self.log(told.logs)
        if told.stop:
            control.should_training_stop = True


class StepTrainer(Trainer):
    """A Trainer that is given whole steps, over all processes, and divides each one itself.

    Checkpoints and the order of rows are ours: a Trainer's are not written whole, and know no token budgets.

    Args:
        work: computes the gradients of a step.
        steps: those still to do.
        done: how many were done before.
        optimizers: the optimizer and the schedule.
        folder: where loggers write that write files.
        told: of each step.
        report_to: the loggers, by the Trainer's names.
    """

    def __init__(
        self,
        work: Work,
        steps: Sequence[Step],
        done: int,
        optimizers: tuple[Any, Any],
        folder: Path,
        told: Steps,
        report_to: Sequence[str] = (),
    ) -> None:
        arguments = Arguments(
            output_dir=str(folder),
            max_steps=done + len(steps),
            max_grad_norm=MAX_NORM,
            seed=work.settings.seed % 2**32,  # numpy takes no more; nothing is drawn from it
            use_cpu=work.model.device.type == "cpu",
            ddp_find_unused_parameters=True,  # a step runs some tasks, and on some layers
            ddp_broadcast_buffers=False,
            report_to=[name for name in report_to if name != TENSORBOARD] or "none",
            save_strategy="no",
            eval_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            dataloader_pin_memory=False,
            remove_unused_columns=False,
        )
        arguments._setup_devices  # noqa: B018 (counts the devices, so that what follows stays)
        arguments._n_gpu = min(arguments.n_gpu, 1)  # several belong to several processes
        self.work, self.steps, self.told = work, steps, told
        own = [TensorBoardCallback(_writer(folder))] if TENSORBOARD in report_to and is_first() else []
        super().__init__(work.module, arguments, optimizers=optimizers, callbacks=[*own, told])
        self.remove_callback(PrinterCallback)
        told.log = self.log
        self.accelerator.device_placement = False

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The steps in order; its generator leaves the random numbers of training alone."""
        data: Any = [{"step": step} for step in self.steps]
        return DataLoader(data, batch_size=None, collate_fn=_same, generator=torch.Generator())

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Computes the gradients of a step, and gives its loss."""
        value = self.work.run(model, inputs["step"], self.state.global_step + 1, self.accelerator)
        self.told.loss = float(value)
        return value.to(self.args.device)


def _writer(folder: Path) -> Any:
    """Writes what TensorBoard reads, in the folder itself."""
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder))


def _same(item: Any) -> Any:
    return item
