"""Scores and speed as fusions keep fewer and fewer of their children."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from compose.dsl import Block, Expression, Fuse, Parallel, branches, own_name, with_children
from compose.recipes.evaluated import sources_of
from compose.recipes.experiment import Experiment
from compose.recipes.measure import (
    SPEED_REPEATS,
    SPEED_ROWS,
    answers_of,
    batch_of_inputs,
    mean_score,
    scores_of,
    timed,
)
from compose.recipes.schema import FusionCurve
from compose.runtime.pruning import prune_fusion
from compose.train.data import sample

LOOKED_AT = 128
"""On how many examples of what a task learns from its fusion's children are weighed."""


def fusion_curve(experiment: Experiment, curve: FusionCurve) -> list[dict[str, Any]]:
    """Scores, time and FLOPs as each fusion keeps only the children that it looks at most; nothing is trained for it.

    Args:
        experiment: what is measured.
        curve: the expression, and the numbers of children. A fusion that has no more of them stays as it is.
    """
    scored = experiment.evaluated.curves["fusion_curve"]
    base = experiment.plan(scored.path, scored.text).expression
    examples = experiment.test_examples(next(scored.rounds()))
    inputs = [example.input for example in next(iter(examples.values()))]
    batch, tokens = batch_of_inputs(experiment, inputs, SPEED_ROWS)
    found: list[dict[str, Any]] = []
    with _pruned(experiment, base, curve.keep) as (plans, kept):
        seconds = timed([partial(plan, **batch) for plan in plans], SPEED_REPEATS)
        for place, (keep, plan) in enumerate(zip(curve.keep, plans, strict=True)):
            scores = scores_of(experiment, answers_of(experiment, scored, plan))
            found.append(
                {
                    "keep": keep,
                    "kept": kept[place],
                    "scores": scores,
                    "mean": mean_score(experiment, scores),
                    "rows": SPEED_ROWS,
                    "tokens": tokens,
                    "milliseconds": 1000 * seconds[place],
                    "flops": plan.explain(rows=SPEED_ROWS, tokens=tokens).flops,
                }
            )
    return found


@contextmanager
def _pruned(
    experiment: Experiment, base: Expression, keeps: tuple[int, ...]
) -> Iterator[tuple[list[Any], list[dict[str, list[str]]]]]:
    """A plan for each number of children, and by fusion what is kept; the pruned fusions go at the end."""
    model = experiment.model
    before = set(model.fusions.names)
    try:
        plans, kept = [], []
        for keep in keeps:
            names: dict[str, list[str]] = {}
            tasks = {
                str(branch.task): _with_fewer(experiment, branch.expression, str(branch.task), keep, names)
                for branch in branches(base)
            }
            plans.append(model.plan(Parallel(tasks)))
            kept.append(names)
        yield plans, kept
    finally:
        for name in set(model.fusions.names) - before:
            model.delete_fusion(name)


def _with_fewer(
    experiment: Experiment, branch: Expression, task: str, keep: int, names: dict[str, list[str]]
) -> Expression:
    """A branch whose outer fusions keep so many children; `names` gets those of each that has more."""
    source = experiment.data[sources_of(experiment.recipe.evaluate.data, task)[0]]
    inputs = [example.input for example in sample(source.train, LOOKED_AT, experiment.recipe.seed)]

    def fewer(node: Expression) -> Expression:
        if isinstance(node, Fuse) and len(node.children) > keep:
            into = f"{task}.keep{keep}.{len(names)}"
            pruned = prune_fusion(experiment.model, node, keep, inputs, branch, into)
            names[own_name(node) or ""] = [pruned.children[place] for place in pruned.kept]
            return pruned.fuse
        if isinstance(node, Block) and not isinstance(node, Fuse):
            return with_children(node, [fewer(child) for child in node.children])
        return node

    return fewer(branch)
