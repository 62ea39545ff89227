"""Adapters that are pruned by what their weights mean for the loss, just before they are trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from compose.dsl import as_expression
from compose.recipes.checks import snip_stage
from compose.recipes.experiment import Experiment, located
from compose.recipes.schema import Stage
from compose.runtime.batches import STEP_ROWS
from compose.runtime.runnable import RunnablePlan
from compose.runtime.sparsity import Pruned, sparsify
from compose.train.collator import TaskCollator
from compose.train.data import sample
from compose.train.rows import row_groups

EXAMPLES = 256
"""Of how many examples of each task the loss is taken where nothing is said."""


def prune_before(experiment: Experiment, stage: Stage, index: int, plan: RunnablePlan) -> list[Pruned]:
    """Prunes the adapters that a recipe wants pruned by `snip` and that this stage is the first to have.

    Args:
        experiment: the run.
        stage: the stage that is about to begin.
        index: its number.
        plan: of its expression.

    Raises:
        RecipeError: at the adapter, if no weight of it matters for the loss.
    """
    recipe, found = experiment.recipe, []
    for name, adapter in recipe.adapters.items():
        if adapter.sparsity and adapter.pruning == "snip" and snip_stage(recipe, name) == index:
            batches = list(_batches(experiment, stage, adapter.pruning_examples or EXAMPLES))
            with located(experiment.document, ("adapters", name)):
                expression = as_expression(stage.expression)
                found.append(sparsify(plan.model, name, adapter.sparsity, "snip", batches, expression))
    return found


def _batches(experiment: Experiment, stage: Stage, count: int) -> Iterator[dict[str, Any]]:
    """Some of what a stage learns from, as its plan takes it."""
    model, seed = experiment.model, experiment.recipe.seed
    chosen = {task: sample(every, count, seed) for task, every in experiment.stage_examples(stage).items()}
    for group in row_groups(model, chosen):
        collate = TaskCollator(model.tokenizer, dict(model.heads.items()), tasks=group.tasks)
        for rows in _chunks([group.drawn(place, seed, 0) for place in range(len(group.rows))]):
            batch = collate(rows)
            labels = batch.pop("labels")
            yield {**{key: value.to(model.device) for key, value in batch.items()}, "labels": labels}


def _chunks(rows: Sequence[dict[str, Any]]) -> Iterator[Sequence[dict[str, Any]]]:
    for start in range(0, len(rows), STEP_ROWS):
        yield rows[start : start + STEP_ROWS]
