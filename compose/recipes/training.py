"""The stages of a recipe's training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from compose.recipes.console import Console
from compose.recipes.experiment import Experiment
from compose.recipes.pruning import prune_before
from compose.recipes.schema import Stage
from compose.train.fit import Settings, fit
from compose.train.rows import row_groups
from compose.train.trunk_cache import TrunkCache

NoteCut = Callable[[str, Mapping[str, tuple[int, int]]], None]
"""Told where texts were cut: how many of how many, by task."""


class Training:
    """Trains the stages of a recipe, one after another.

    Args:
        experiment: what is trained.
        console: says what happens.
        note_cut: told of texts that are longer than the backbone takes.
    """

    def __init__(self, experiment: Experiment, console: Console, note_cut: NoteCut = lambda where, cut: None) -> None:
        self.experiment, self.console, self.note_cut = experiment, console, note_cut
        self.cache = TrunkCache()  # stages over the same texts share it

    def stage(self, index: int, checkpoint: Path | None) -> dict[str, Any]:
        """Trains a stage.

        Args:
            index: its number.
            checkpoint: the file that its training is kept in; if it is there, training goes on from it.

        Returns:
            What is to be told of it, as JSON takes it.
        """
        experiment, console, stage = self.experiment, self.console, self.experiment.recipe.train[index]
        model = experiment.model
        name = stage.name or f"stage {index + 1}"
        console.heading(f"train {name}: {stage.expression}")
        plan = experiment.plan(("train", index, "expression"), stage.expression)
        trainable = model.train_only(
            plan.expression, regime=stage.regime, last=stage.last, train_layer_norms=stage.train_layer_norms
        )
        examples = experiment.stage_examples(stage)
        counts = {task: len(members) for task, members in examples.items()}
        console.say(str(trainable))
        console.say("examples: " + ", ".join(f"{task} {count}" for task, count in counts.items()))
        groups = row_groups(model, examples)
        self.note_cut(f"train {name}", {task: (group.cut, counts[task]) for group in groups for task in group.tasks})
        for pruned in prune_before(experiment, stage, index, plan):
            console.say(str(pruned))
        if checkpoint is not None and checkpoint.exists():
            console.say("goes on from where it was interrupted")
        cache = self.cache if stage.trunk_cache else None
        with console.training(name) as advance:
            history = fit(
                model, plan, groups, settings_of(stage, experiment.recipe.seed + index), advance, cache, checkpoint
            )
        model.requires_grad_(False)
        console.say(f"loss {history.losses[0]:.3f} in the first epoch, {history.losses[-1]:.3f} in the last")
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
            "seconds": round(history.seconds, 2),
        }


def settings_of(stage: Stage, seed: int) -> Settings:
    """How a stage says to train."""
    return Settings(
        epochs=stage.epochs,
        batch_size=stage.batch_size,
        batch_tokens=stage.batch_tokens,
        learning_rate=stage.rate,
        weight_decay=stage.weight_decay,
        warmup=stage.warmup,
        seed=seed,
        loss_weights=stage.loss_weights,
        checkpoint_steps=stage.checkpoint_steps,
    )
