"""The stages of a recipe's training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from compose.errors import ConfigError
from compose.recipes.console import Console
from compose.recipes.document import KeyPath
from compose.recipes.experiment import Experiment, located
from compose.recipes.expressions import task_names
from compose.recipes.pruning import prune_before
from compose.recipes.schema import Stage, Temperature
from compose.train.class_weights import check_class_weights
from compose.train.data import Example
from compose.train.epochs import PROPORTIONAL, UNIFORM
from compose.train.fit import ClassWeights, EarlyStopping, Settings, fit
from compose.train.fitting import check_early_stopping
from compose.train.loggers import check_loggers
from compose.train.rows import encode_inputs, row_groups
from compose.train.trunk_cache import TrunkCache

NoteCut = Callable[[str, Mapping[str, tuple[int, int]]], None]
"""Told where texts were cut: how many of how many, by task."""


class Training:
    """Trains the stages of a recipe, one after another.

    Args:
        experiment: what is trained.
        console: says what happens.
        note_cut: told of texts that are longer than the backbone takes.

    Raises:
        RecipeError: at its place in the recipe, what a stage asks for that there is not.
    """

    def __init__(self, experiment: Experiment, console: Console, note_cut: NoteCut = lambda where, cut: None) -> None:
        self.experiment, self.console, self.note_cut = experiment, console, note_cut
        self.cache = TrunkCache()  # stages over the same texts share it
        check_stages(experiment)

    def stage(self, index: int, checkpoint: Path | None, logs: Path | None = None) -> dict[str, Any]:
        """Trains a stage.

        Args:
            index: its number.
            checkpoint: the file that its training is kept in; if it is there, training goes on from it.
            logs: where loggers write that write files.

        Returns:
            What is to be told of it, as JSON takes it.
        """
        experiment, console, stage = self.experiment, self.console, self.experiment.recipe.train[index]
        model = experiment.model
        name = stage.name or f"stage {index + 1}"
        console.heading(f"train {name}: {stage.expression}")
        plan = experiment.plan(("train", index, "expression"), stage.expression)
        trainable = model.train_only(
            plan.expression,
            regime=stage.regime,
            last=stage.last,
            train_layer_norms=stage.train_layer_norms,
            adapters=stage.adapters or None,
        )
        examples = experiment.stage_examples(stage)
        counts = {task: len(members) for task, members in examples.items()}
        console.say(str(trainable))
        console.say("examples: " + ", ".join(f"{task} {count}" for task, count in counts.items()))
        with located(experiment.document, ("train", index, *(("stride",) if stage.stride is not None else ()))):
            groups = row_groups(model, examples, stage.stride)
        rows = {task: len(group.rows) for group in groups for task in group.tasks}
        if rows != counts:
            console.say("windows: " + ", ".join(f"{task} {count}" for task, count in rows.items()))
        self.note_cut(f"train {name}", {task: (group.cut, counts[task]) for group in groups for task in group.tasks})
        for pruned in prune_before(experiment, stage, index, plan):
            console.say(str(pruned))
        if checkpoint is not None and checkpoint.exists():
            console.say("goes on from where it was interrupted")
        cache = self.cache if stage.trunk_cache else None
        settings = settings_of(experiment, stage, index)
        scored = experiment.validation_examples(stage)
        folder = logs / (stage.name or f"stage-{index + 1}") if logs is not None and settings.log else None
        with console.training(name) as advance:
            history = fit(model, plan, groups, settings, advance, cache, checkpoint, scored, folder)
        model.requires_grad_(False)
        console.say(f"loss {history.losses[0]:.3f} in the first epoch, {history.losses[-1]:.3f} in the last")
        if history.best is not None:
            console.say(f"the weights are those of epoch {history.best} of {len(history.losses)}")
        return {
            "name": name,
            "expression": stage.expression,
            "regime": stage.regime,
            "trained_parameters": trainable.count,
            "parameters": trainable.total,
            "examples": counts,
            "epochs": stage.epochs,
            "learning_rate": stage.rate,
            "losses": list(history.losses),
            "validation": list(history.metrics),
            "best_epoch": history.best,
            "seconds": round(history.seconds, 2),
            "epoch_seconds": [round(seconds, 3) for seconds in history.epoch_seconds],
        }


def check_stages(experiment: Experiment) -> None:
    """RecipeError: a stage weighs labels, stops by a metric, or a recipe logs with a logger that there is not, or texts
    cannot be cut into windows as is said."""
    with located(experiment.document, ("log",)):
        check_loggers(experiment.recipe.log)
    for index, stage in enumerate(experiment.recipe.train):
        with located(experiment.document, ("train", index, "class_weights")):
            weights = class_weights_of(experiment, stage)
            if stage.class_weights and not weights:
                raise ConfigError("class_weights: balanced, but no task of the stage has labels to weigh")
            check_class_weights(experiment.model, task_names(stage.expression), weights)
        if stage.early_stopping is not None:
            with located(experiment.document, ("train", index, "early_stopping")):
                early = EarlyStopping(**stage.early_stopping.model_dump())
                check_early_stopping(early, experiment.model, experiment.validation_examples(stage))
    for path, stride, every in _strides(experiment):
        with located(experiment.document, path):
            for examples in every.values():
                encode_inputs(experiment.model, [example.input for example in examples], stride)


def _strides(experiment: Experiment) -> Iterator[tuple[KeyPath, int, Mapping[str, Sequence[Example]]]]:
    """What is scored in windows: the place of each stride in the recipe, and the examples by task."""
    for index, stage in enumerate(experiment.recipe.train):
        if stage.stride is not None:
            yield ("train", index, "stride"), stage.stride, experiment.validation_examples(stage)
    evaluate = experiment.recipe.evaluate
    for each in experiment.evaluated.expressions if evaluate.stride is not None else ():
        assert evaluate.stride is not None
        for sources in each.rounds():
            yield ("evaluate", "stride"), evaluate.stride, experiment.test_examples(sources)


def settings_of(experiment: Experiment, stage: Stage, index: int) -> Settings:
    """How a stage says to train."""
    early = stage.early_stopping
    return Settings(
        epochs=stage.epochs,
        batch_size=stage.batch_size,
        batch_tokens=stage.batch_tokens,
        learning_rate=stage.rate,
        weight_decay=stage.weight_decay,
        warmup=stage.warmup,
        seed=experiment.recipe.seed + index,
        loss_weights=stage.loss_weights,
        checkpoint_steps=stage.checkpoint_steps,
        gradient_accumulation=stage.gradient_accumulation,
        gradient_checkpointing=stage.gradient_checkpointing,
        max_steps=stage.max_steps,
        scheduler=stage.scheduler,
        temperature=_temperature(stage),
        class_weights=class_weights_of(experiment, stage),
        early_stopping=None if early is None else EarlyStopping(early.patience, early.metric),
        log=experiment.recipe.log,
        stride=stage.stride,
    )


def class_weights_of(experiment: Experiment, stage: Stage) -> dict[str, ClassWeights]:
    """How much labels weigh, by task; `balanced` alone is of all tasks that have any."""
    if isinstance(stage.class_weights, dict):
        return dict(stage.class_weights)
    heads = {task: experiment.model.heads[task] for task in task_names(stage.expression)}
    return {task: stage.class_weights for task, head in heads.items() if head.weighs}


def _temperature(stage: Stage) -> float:
    if isinstance(stage.sampling, Temperature):
        return stage.sampling.temperature
    return UNIFORM if stage.sampling == "uniform" else PROPORTIONAL
