"""Several seeds' results put together: means, how they vary, and what systems differ by."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

from compose.train.extras import require

CONFIDENCE = 0.95
"""Of the intervals."""

Metrics = Mapping[str, Any]
"""What the `metrics.json` of one seed holds."""

CURVES: Mapping[str, str] = {"drop_curve": "first", "fusion_curve": "keep"}
"""The curves in results, and the key of a point that says where it is."""


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds.

    Args:
        mean: of the values.
        deviation: their standard deviation (of the sample: n - 1); None of a single value.
        low: of the 95 % confidence interval of the mean, by Student's t; None of a single value.
        high: the same.
        values: one for each seed.
    """

    mean: float
    deviation: float | None
    low: float | None
    high: float | None
    values: tuple[float, ...]

    @property
    def half(self) -> float | None:
        """Half the interval: the mean is known to plus or minus this."""
        return None if self.high is None else self.high - self.mean

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {**asdict(self), "values": list(self.values)}


def estimate(values: Iterable[float]) -> Estimate:
    """The mean of some values, and how well it is known.

    >>> found = estimate([1.0, 2.0, 3.0])
    >>> found.mean, found.deviation, round(found.high, 3)
    (2.0, 1.0, 4.484)
    """
    found = tuple(values)
    mean = statistics.fmean(found)
    if len(found) < 2:
        return Estimate(mean, None, None, None, found)
    deviation = statistics.stdev(found)
    factor = float(require("scipy.special").stdtrit(len(found) - 1, (1 + CONFIDENCE) / 2))
    half = factor * deviation / math.sqrt(len(found))
    return Estimate(mean, deviation, mean - half, mean + half, found)


def difference(values: Mapping[int, float], other: Mapping[int, float]) -> Estimate | None:
    """By how much some values are above others: paired by seed, over the seeds that both have; None without any.

    >>> difference({1: 0.9, 2: 0.8}, {2: 0.7, 3: 0.1}).values
    (0.1,)
    """
    pairs = [round(values[seed] - other[seed], 12) for seed in values if seed in other]
    return estimate(pairs) if pairs else None


def aggregate(seeds: Sequence[Metrics]) -> dict[str, Any]:
    """The results of the seeds of one recipe, as the run's own `metrics.json` holds them.

    Args:
        seeds: the `metrics.json` of each.

    Returns:
        The same keys, with estimates for numbers, and `differences`: of each two systems, for the mean and for each
            task.
    """
    first = seeds[0]
    found: dict[str, Any] = {
        "recipe": first["recipe"],
        "seeds": [each["seed"] for each in seeds],
        "main": first["main"],
        "scores": {
            system: {
                task: {
                    metric: estimate(each["scores"][system][task][metric] for each in seeds).to_dict()
                    for metric in scores
                }
                for task, scores in tasks.items()
            }
            for system, tasks in first["scores"].items()
        },
        "means": {system: estimate(each["means"][system] for each in seeds).to_dict() for system in first["means"]},
        "differences": list(_differences(seeds)),
        "stages": [_stage([each["stages"][place] for each in seeds]) for place in range(len(first["stages"]))],
        **{
            curve: [_point([each[curve][place] for each in seeds], key) for place in range(len(first.get(curve, ())))]
            for curve, key in CURVES.items()
        },
        "fusion_attention": {
            fusion: {
                "mean": {
                    name: estimate(each["fusion_attention"][fusion]["mean"].get(name, 0.0) for each in seeds).to_dict()
                    for name in weights["mean"]
                }
            }
            for fusion, weights in first["fusion_attention"].items()
        },
    }
    return found


def mean_of(metrics: Metrics, system: str, task: str | None) -> float | None:
    """A system's main score of a task in one seed's results, or its mean over tasks; None if there is none."""
    if task is None:
        return metrics["means"].get(system)
    scores = metrics["scores"].get(system, {}).get(task, {})
    found: float | None = scores.get(metrics["main"].get(task))
    return found


def _differences(seeds: Sequence[Metrics]) -> Iterable[dict[str, Any]]:
    for system, other in combinations(seeds[0]["scores"], 2):
        for task in (None, *seeds[0]["main"]):
            values, others = (
                {each["seed"]: score for each in seeds if (score := mean_of(each, name, task)) is not None}
                for name in (system, other)
            )
            apart = difference(values, others)
            if apart is not None:
                yield {"system": system, "minus": other, "task": task, **apart.to_dict()}


def _stage(seeds: Sequence[Metrics]) -> dict[str, Any]:
    told = {key: seeds[0][key] for key in ("name", "expression", "regime", "trained_parameters", "parameters")}
    return {
        **told,
        "seconds": estimate(each["seconds"] for each in seeds).to_dict(),
        "last_loss": estimate(each["losses"][-1] for each in seeds).to_dict(),
    }


def _point(seeds: Sequence[Metrics], key: str) -> dict[str, Any]:
    return {
        **{key: seeds[0][key] for key in (key, "rows", "tokens", "flops")},
        "mean": estimate(each["mean"] for each in seeds).to_dict(),
        "milliseconds": estimate(each["milliseconds"] for each in seeds).to_dict(),
    }
