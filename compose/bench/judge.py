"""What follows from the figures: ratios, the bounds that FLOPs set, and which targets are reached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from compose.bench.case import Target

Found = Mapping[str, Mapping[str, Any]]
"""What was measured, by contestant."""


def judge(targets: Sequence[Target], found: Found) -> list[dict[str, Any]]:
    """Each target with its value by the median and by the minimum, and whether the median reaches it.

    Where it is a ratio of seconds, `bound` is the ratio of FLOPs: what it would be if both ran at one rate.
    Targets against someone who did not run have no value.
    """
    judged = []
    for target in targets:
        told: dict[str, Any] = asdict(target)
        value, lowest = (figure(target, found, by) for by in ("median", "minimum"))
        if value is not None:
            told |= {"value": value, "value_of_minima": lowest, "reached": value <= target.at_most}
            bound = flop_ratio(target, found)
            if bound is not None:
                told["bound"] = bound
        judged.append(told)
    return judged


def figure(target: Target, found: Found, by: str) -> float | None:
    """What a target is about: a figure or a ratio of two; None where one of them is missing."""
    if target.metric == "bound":
        expected, taken = expected_seconds(target.of, found, by), _value(target.of, "seconds", found, by)
        return taken / expected if taken is not None and expected else None
    value = _value(target.of, target.metric, found, by)
    if value is not None and target.beyond:
        fewer = _value(target.beyond, target.metric, found, by)
        value = None if fewer is None else (value - fewer) / target.adapters
    if value is None or not target.against:
        return value
    base = _value(target.against, target.metric, found, by)
    return value / base if base else None


def flop_ratio(target: Target, found: Found) -> float | None:
    """FLOPs of one contestant as a share of another's, for targets that are ratios of seconds."""
    if target.metric != "seconds" or not target.against:
        return None
    ours, base, fewer = (found.get(name, {}).get("flops") for name in (target.of, target.against, target.beyond))
    if not ours or not base or (target.beyond and not fewer):
        return None
    return float((ours - (fewer or 0)) / target.adapters / base)


def expected_seconds(name: str, found: Found, by: str = "median") -> float | None:
    """What a plan would take at the backbone's own rate for as many rows as each of its layers runs on.

    The rate is that of the plain backbone with the number of rows that is nearest.
    """
    facts = found.get(name, {}).get("facts", {})
    rates = {
        plain["facts"]["rows"]: plain["flops"] / plain[by]
        for plain in found.values()
        if plain["by"] == "plain" and by in plain and plain.get("flops")
    }
    if "flops_by_rows" not in facts or not rates:
        return None
    return sum(
        flops / rates[min(rates, key=lambda known: abs(known - int(rows)))]
        for rows, flops in facts["flops_by_rows"].items()
    )


def _value(name: str, metric: str, found: Found, by: str) -> float | None:
    result = found.get(name, {})
    if metric in ("seconds", "memory"):
        value = result.get(by if metric == "seconds" else "peak")
    else:
        value = result.get("facts", {}).get(metric)
    return None if value is None else float(value)
