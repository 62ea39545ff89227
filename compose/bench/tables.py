"""A case's figures as tables, for the terminal and the page alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compose.explain.explanation import readable
from compose.recipes.console import table

Result = Mapping[str, Any]
"""A case as it is measured."""

MIB = 1 << 20


def contestant_table(case: Result) -> str:
    """Times, memory and FLOPs of each contestant, and ratios to the plain backbone or to whom targets are against."""
    found = {name: one for name, one in case["contestants"].items() if "median" in one}
    base = base_of(case)
    plain = base in found and found[base]["by"] == "plain"
    compared = {target["of"] for target in case["targets"] if target["against"] == base}
    rows = []
    for name, one in found.items():
        against = found.get(base) if base != name and (plain or name in compared) else None
        rows.append(
            [
                name,
                duration(one["minimum"]),
                duration(one["median"]),
                "" if against is None else f"{one['median'] / against['median']:.2f}",
                f"{one['peak'] / MIB:.0f}",
                readable(one["flops"]).strip() if one.get("flops") else "",
                f"{one['flops'] / against['flops']:.2f}"
                if against and one.get("flops") and against.get("flops")
                else "",
            ]
        )
    return table(["", "minimum", "median", "ratio", "peak, MiB", "FLOPs", "ratio"], rows)


def remarks(case: Result) -> list[str]:
    """What else is to be said of a case: how memory was read, texts a second, and who failed."""
    lines = [
        f"{name}: {one['facts']['texts'] / one['median']:.0f} texts a second."
        for name, one in case["contestants"].items()
        if "median" in one and "texts" in one["facts"]
    ]
    ways = sorted({one["memory_by"] for one in case["contestants"].values() if "memory_by" in one})
    if ways:
        lines.append(f"Peak memory by {', '.join(ways)}.")
    lines += [f"{name} failed: {one['error']}" for name, one in case["contestants"].items() if "error" in one]
    return lines


def base_of(case: Result) -> str:
    """Whom the others are compared with: the plain backbone, else the one that targets are against."""
    found = case["contestants"]
    plain = [name for name, one in found.items() if one["by"] == "plain" and "median" in one]
    against = [target["against"] for target in case["targets"] if target["against"] in found]
    return next(iter([*plain, *against]), "")


def target_table(case: Result) -> str:
    """What was to be reached, what was, and what the FLOPs would allow."""
    rows = []
    for target in case["targets"]:
        value, bound = target.get("value"), target.get("bound")
        rows.append(
            [
                wording(target),
                amount(target, target["at_most"], limit=True),
                "not measured" if value is None else amount(target, value),
                "" if value is None else amount(target, target["value_of_minima"]),
                "" if bound is None else amount(target, bound),
                "" if value is None else "yes" if target["reached"] else "no",
            ]
        )
    return table(["target", "to reach", "by medians", "by minima", "by FLOPs", "reached"], rows)


def wording(target: Result) -> str:
    """What a target is about, in words."""
    if target["metric"] == "bound":
        return f"{target['of']}: time against the FLOP count at the backbone's own rate"
    what = {"seconds": "time", "memory": "peak memory"}.get(target["metric"], target["metric"])
    if target.get("beyond"):
        what = f"{what} of each adapter more than {target['beyond']} has,"
    return f"{target['of']}: {what}" + (f" against {target['against']}" if target["against"] else "")


def amount(target: Result, value: float, limit: bool = False) -> str:
    """A target's figure in its unit."""
    if target["metric"] == "seconds" and not target["against"]:
        return f"{'at most ' if limit else ''}{duration(value)}"
    if target["speed"]:
        return f"{'at least ' if limit else ''}{1 / value:.2f} × as fast"
    if target["metric"] in AGREEMENT:
        return f"{'at least ' if limit else ''}{100 * (1 - value):.2f} %"
    return f"{'at most ' if limit else ''}{value:.2f} ×"


AGREEMENT = ("disagreement",)
"""Facts that are told as the share that agrees."""


def duration(seconds: float) -> str:
    """A time with three digits.

    >>> duration(16.83), duration(0.4321), duration(42e-6)
    ('16.8 s', '432 ms', '42.0 µs')
    """
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= 0.9995 * size or unit == "µs":
            value = seconds / size
            return f"{value:.{0 if value >= 99.95 else 1 if value >= 9.995 else 2}f} {unit}"
    raise AssertionError("the last unit takes everything")
