"""What a run measures: scores, baselines, the drop curve, where fusions look, and what one pass saves."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from compose.dsl import Drop, Fuse, fuses, own_name, to_text
from compose.recipes.experiment import Experiment, single_plans, task_names
from compose.recipes.schema import Compare, DropCurve
from compose.runtime.runnable import RunnablePlan
from compose.runtime.shares import child_names, fusion_shares
from compose.runtime.texts import batch_of
from compose.train.evaluate import Answered, Scores, answer, evaluate, kind_of
from compose.train.head_only import head_only
from compose.train.metrics import MAIN
from compose.train.rows import cut_inputs, encode_inputs
from compose.train.tfidf import tfidf

SPEED_ROWS = 16
SPEED_REPEATS = 3

BASELINES = {"head_only": "head only", "tfidf": "TF-IDF"}
"""What reports call the baselines."""


def main_metrics(experiment: Experiment, tasks: Iterable[str]) -> dict[str, str]:
    """For each task the one score that means are made of."""
    chosen = experiment.recipe.evaluate.metrics
    return {task: chosen[task][0] if task in chosen else MAIN[kind_of(experiment.model.heads[task])] for task in tasks}


def mean_score(experiment: Experiment, scores: Mapping[str, Scores]) -> float:
    """The mean over tasks of each one's main score."""
    return statistics.fmean(scores[task][metric] for task, metric in main_metrics(experiment, scores).items())


def cut_tests(experiment: Experiment) -> dict[str, tuple[int, int]]:
    """How many texts of the test part are longer than the backbone takes and cut, of how many, by task."""
    wanted = experiment.recipe.evaluate
    if wanted.stride is not None:
        return {}
    curve = [wanted.drop_curve.expression] if wanted.drop_curve else []
    tasks = dict.fromkeys(task for text in (*wanted.expressions.values(), *curve) for task in task_names(text))
    sources = {task: wanted.data.get(task, task) for task in tasks}
    inputs = {name: [example.input for example in experiment.data[name].test] for name in sources.values()}
    cut = {name: (cut_inputs(experiment.model, found), len(found)) for name, found in inputs.items()}
    return {task: cut[name] for task, name in sources.items()}


def answers(experiment: Experiment) -> dict[str, dict[str, Answered]]:
    """What the recipe's expressions and baselines answer on the test part: by system, then task."""
    wanted = experiment.recipe.evaluate
    found = {}
    for name, text in wanted.expressions.items():
        plan = experiment.plan(("evaluate", "expressions", name), text)
        options = wanted.batch_size, wanted.batch_tokens, wanted.stride
        found[name] = answer(plan, experiment.test_examples(task_names(text)), *options)
    train = experiment.train_examples()
    tasks = [task for task in dict.fromkeys(t for each in found.values() for t in each) if task in train]
    for baseline in wanted.baselines:
        found[BASELINES[baseline]] = {task: _baseline(experiment, baseline, task, train[task]) for task in tasks}
    return found


def _baseline(experiment: Experiment, baseline: str, task: str, train: Sequence[Any]) -> Answered:
    head = experiment.model.heads[task]
    test = experiment.test_examples([task])[task]
    if baseline == "tfidf":
        return tfidf(kind_of(head), train, test)
    return head_only(experiment.model, head.config, train, test, experiment.recipe.seed)


def drop_curve(
    experiment: Experiment, curve: DropCurve, known: Mapping[str, Mapping[str, Scores]]
) -> list[dict[str, Any]]:
    """Scores, time and FLOPs as adapters are dropped from more and more of the first layers.

    Args:
        experiment: what is measured.
        curve: the expression, and the numbers of layers.
        known: scores of expressions measured before, by their names in the recipe.
    """
    wanted = experiment.recipe.evaluate
    base = experiment.plan(("evaluate", "drop_curve", "expression"), curve.expression)
    examples = experiment.test_examples(task_names(curve.expression))
    plans = {first: experiment.model.plan(Drop(base.expression, first=first)) for first in curve.first}
    inputs = [example.input for example in next(iter(examples.values()))]
    batch, tokens = _batch(experiment, inputs, SPEED_ROWS)
    seconds = timed([partial(plan, **batch) for plan in plans.values()], SPEED_REPEATS)
    named = wanted.expressions
    full = next((known[name] for name, text in named.items() if text == curve.expression and name in known), None)
    found = []
    for (first, plan), took in zip(plans.items(), seconds, strict=True):
        limits = wanted.batch_size, wanted.batch_tokens
        scores = full if full and first == 0 else evaluate(plan, examples, *limits, wanted.metrics, wanted.stride)
        found.append(
            {
                "first": first,
                "scores": scores,
                "mean": mean_score(experiment, scores),
                "rows": SPEED_ROWS,
                "tokens": tokens,
                "milliseconds": 1000 * took,
                "flops": plan.explain(rows=SPEED_ROWS, tokens=tokens).flops,
            }
        )
    return found


def fusion_attention(experiment: Experiment) -> dict[str, dict[str, Any]]:
    """Where each fusion looks: the mean weight of its candidates over all test tokens, by layer and site."""
    found: dict[str, dict[str, Any]] = {}
    for name, text in experiment.recipe.evaluate.expressions.items():
        plan = experiment.plan(("evaluate", "expressions", name), text)
        for task, single in single_plans(plan).items():
            for fuse in fuses(single.expression):
                if own_name(fuse) not in found:
                    inputs = [example.input for example in experiment.test_examples([task])[task]]
                    found[own_name(fuse) or ""] = _attention(single, fuse, inputs)
    return found


def _attention(plan: RunnablePlan, fuse: Fuse, inputs: Sequence[Any]) -> dict[str, Any]:
    names = child_names(fuse)
    rows: list[dict[str, Any]] = [
        {
            "layer": found.layer,
            "site": found.site,
            "weights": {names[place]: share for place, share in found.shares.items()},
        }
        for found in fusion_shares(plan, fuse, inputs)
    ]
    seen = dict.fromkeys(name for row in rows for name in row["weights"])
    mean = {name: statistics.fmean(row["weights"].get(name, 0.0) for row in rows) for name in seen}
    return {"expression": to_text(fuse), "rows": rows, "mean": mean}


def compare_passes(
    experiment: Experiment, plan: RunnablePlan, texts: Sequence[str], compare: Compare
) -> list[dict[str, Any]]:
    """One pass for all tasks against a pass for each: time, FLOPs and how far the answers are apart."""
    singles = single_plans(plan)
    found = []
    for count in compare.messages:
        inputs = [texts[index % len(texts)] for index in range(count)]
        batch, tokens = _batch(experiment, inputs, None)

        def separate(batch: dict[str, Any] = batch) -> dict[str, Any]:
            return {task: single(**batch)[task].logits for task, single in singles.items()}

        def together(batch: dict[str, Any] = batch) -> dict[str, Any]:
            return {str(task): output.logits for task, output in plan(**batch).items()}

        one, several = timed([together, separate], compare.repeats)
        explained = plan.explain(rows=count, tokens=tokens)
        with torch.no_grad():
            a, b = together(), separate()
        mask = batch["attention_mask"].bool()
        found.append(
            {
                "messages": count,
                "tokens": tokens,
                "one_pass": {"milliseconds": 1000 * one, "flops": explained.flops},
                "separate": {"milliseconds": 1000 * several, "flops": explained.separate_flops},
                "largest_difference": max(_difference(a[task], b[task], mask) for task in singles),
            }
        )
    return found


def _difference(a: Tensor, b: Tensor, mask: Tensor) -> float:
    """The largest difference of logits; those of padding say nothing."""
    gap = (a - b).abs()
    return float((gap[mask] if gap.dim() == 3 and gap.shape[:2] == mask.shape else gap).max())


def timed(calls: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """The median time of each call in seconds; they take turns, so that other work on the machine is shared."""
    seconds: list[list[float]] = [[] for _ in calls]
    with torch.no_grad():
        for turn in range(repeats + 1):
            for call, taken in zip(calls, seconds, strict=True):
                start = time.perf_counter()
                call()
                if turn:  # the first compiles and warms up
                    taken.append(time.perf_counter() - start)
    return [statistics.median(taken) for taken in seconds]


def _batch(experiment: Experiment, inputs: Sequence[Any], rows: int | None) -> tuple[dict[str, Any], int]:
    """Inputs as a batch, repeated to some number of rows, and how many tokens wide it is."""
    items = encode_inputs(experiment.model, inputs)
    features = [item.rows[0].features for item in items]
    features = features if rows is None else [features[index % len(features)] for index in range(rows)]
    batch = batch_of(features, experiment.model.tokenizer, experiment.model.device)
    return batch, int(batch["input_ids"].shape[1])
