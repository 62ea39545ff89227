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
from compose.recipes.evaluated import Scored
from compose.recipes.experiment import Experiment, single_plans
from compose.recipes.schema import Compare, DropCurve
from compose.runtime.readers import reader_of
from compose.runtime.runnable import RunnablePlan
from compose.runtime.shares import child_names, fusion_shares
from compose.train.evaluate import Answered, Scores, answer, kind_of
from compose.train.head_only import head_only
from compose.train.metrics import MAIN
from compose.train.rows import cut_inputs, encode_inputs
from compose.train.tfidf import tfidf

SPEED_ROWS = 16
SPEED_REPEATS = 3

BASELINES = {"head_only": "head only", "tfidf": "TF-IDF"}
"""What reports call the baselines."""


def main_metrics(experiment: Experiment, names: Iterable[str]) -> dict[str, str]:
    """For each task, on each of its sources, the one score that means are made of."""
    chosen, rows = experiment.recipe.evaluate.metrics, experiment.evaluated.rows()
    tasks = {name: rows[name][0] for name in names}
    kinds = {task: kind_of(experiment.model.heads[task]) for task in tasks.values()}
    return {name: chosen[task][0] if task in chosen else MAIN[kinds[task]] for name, task in tasks.items()}


def mean_score(experiment: Experiment, scores: Mapping[str, Scores]) -> float:
    """The mean over tasks of each one's main score."""
    return statistics.fmean(scores[task][metric] for task, metric in main_metrics(experiment, scores).items())


def cut_tests(experiment: Experiment) -> dict[str, tuple[int, int]]:
    """How many texts of the test part are longer than the backbone takes and cut, of how many, by task and source."""
    if experiment.recipe.evaluate.stride is not None:
        return {}
    rows = experiment.evaluated.rows()
    inputs = {source: [example.input for example in experiment.data[source].test] for _, source in rows.values()}
    cut = {source: (cut_inputs(experiment.model, found), len(found)) for source, found in inputs.items()}
    return {name: cut[source] for name, (_, source) in rows.items()}


def answers(experiment: Experiment) -> dict[str, dict[str, Answered]]:
    """What the recipe's expressions and baselines answer on the test part: by system, then task and source."""
    wanted, evaluated = experiment.recipe.evaluate, experiment.evaluated
    found: dict[str, dict[str, Answered]] = {}
    for name, members in evaluated.systems.items():
        found[name] = {}
        for each in members:
            found[name] |= answers_of(experiment, each, experiment.plan(each.path, each.text))
    train, rows = experiment.train_examples(), evaluated.rows()
    names = [name for name in dict.fromkeys(row for each in found.values() for row in each) if rows[name][0] in train]
    for baseline in wanted.baselines:
        found[BASELINES[baseline]] = {name: _baseline(experiment, baseline, *rows[name], train) for name in names}
    return found


def answers_of(experiment: Experiment, scored: Scored, plan: RunnablePlan) -> dict[str, Answered]:
    """What a plan answers to what its expression is scored on, by task and source."""
    wanted = experiment.recipe.evaluate
    found: dict[str, Answered] = {}
    for sources in scored.rounds():
        options = wanted.batch_size, wanted.batch_tokens, wanted.stride
        said = answer(plan, experiment.test_examples(sources), *options)
        found |= {experiment.evaluated.called(task, sources[task]): answered for task, answered in said.items()}
    return found


def scores_of(experiment: Experiment, answered: Mapping[str, Answered]) -> dict[str, Scores]:
    """Answers scored by the metrics that the recipe wants."""
    chosen, rows = experiment.recipe.evaluate.metrics, experiment.evaluated.rows()
    return {name: found.scores(chosen.get(rows[name][0])) for name, found in answered.items()}


def _baseline(
    experiment: Experiment, baseline: str, task: str, source: str, every: Mapping[str, Sequence[Any]]
) -> Answered:
    head, train = experiment.model.heads[task], every[task]
    test = experiment.test_examples({task: source})[task]
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
    wanted, scored = experiment.recipe.evaluate, experiment.evaluated.curves["drop_curve"]
    base = experiment.plan(scored.path, scored.text)
    examples = experiment.test_examples(next(scored.rounds()))
    plans = {first: experiment.model.plan(Drop(base.expression, first=first)) for first in curve.first}
    inputs = [example.input for example in next(iter(examples.values()))]
    batch, tokens = batch_of_inputs(experiment, inputs, SPEED_ROWS)
    seconds = timed([partial(plan, **batch) for plan in plans.values()], SPEED_REPEATS)
    named = wanted.expressions
    full = next((known[name] for name, text in named.items() if text == curve.expression and name in known), None)
    found = []
    for (first, plan), took in zip(plans.items(), seconds, strict=True):
        scores = full if full and first == 0 else scores_of(experiment, answers_of(experiment, scored, plan))
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
    for each in (each for members in experiment.evaluated.systems.values() for each in members):
        for task, single in single_plans(experiment.plan(each.path, each.text)).items():
            for fuse in fuses(single.expression):
                if own_name(fuse) not in found:
                    inputs = [
                        example.input for source in each.sources[task] for example in experiment.data[source].test
                    ]
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
    experiment: Experiment, plan: RunnablePlan, given: Sequence[Any], compare: Compare
) -> list[dict[str, Any]]:
    """One pass for all tasks against a pass for each: time, FLOPs and how far the answers are apart."""
    singles = single_plans(plan)
    found = []
    for count in compare.messages:
        inputs = [given[index % len(given)] for index in range(count)]
        batch, tokens = batch_of_inputs(experiment, inputs, None)

        def separate(batch: dict[str, Any] = batch) -> dict[str, Any]:
            return {task: single(**batch)[task].logits for task, single in singles.items()}

        def together(batch: dict[str, Any] = batch) -> dict[str, Any]:
            return {str(task): output.logits for task, output in plan(**batch).items()}

        one, several = timed([together, separate], compare.repeats)
        explained = plan.explain(rows=count, tokens=tokens)
        with torch.no_grad():
            a, b = together(), separate()
        mask = batch.get("attention_mask")
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


def _difference(a: Tensor, b: Tensor, mask: Tensor | None) -> float:
    """The largest difference of logits; those of padding say nothing."""
    gap = (a - b).abs()
    per_token = mask is not None and gap.dim() == 3 and gap.shape[:2] == mask.shape
    return float((gap[mask.bool()] if mask is not None and per_token else gap).max())


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


def batch_of_inputs(experiment: Experiment, inputs: Sequence[Any], rows: int | None) -> tuple[dict[str, Any], int]:
    """Inputs as a batch, repeated to some number of rows, and how many tokens wide it is."""
    found = [item.rows[0] for item in encode_inputs(experiment.model, inputs)]
    found = found if rows is None else [found[index % len(found)] for index in range(rows)]
    return dict(reader_of(experiment.model).batch(found)), max(len(row.words) for row in found)
