"""Runs cases: every contestant in a process of its own, one of them computing at a time, in turn."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from compose.bench.case import Case, Contestant
from compose.bench.judge import judge
from compose.bench.workers import Worker, command_of
from compose.errors import BenchError

OnStep = Callable[[str, str, str], None]
"""Told what begins: the case, the contestant, and what it does."""

STEPS = 3
"""What a contestant does besides its rounds: it is set up, warms up and counts."""


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Args:
        size: of the backbone, `base` or `tiny`.
        rounds: how often each contestant has its turn.
        threads: of each process.
        device: `cpu` or `cuda`.
        peer: an interpreter that has `adapters`; None to leave the peer out.
        texts: a file with the texts, as a JSON list.
        folder: where the peer finds the backbone of cases over real texts.
    """

    size: str = "base"
    rounds: int = 5
    threads: int = 2
    device: str = "cpu"
    peer: str | None = None
    texts: str = ""
    folder: str = ""


def contestants_of(case: Case, settings: Settings) -> tuple[Contestant, ...]:
    """Those of a case that can run: all, or all but the peer, which has no tiny backbone that reads texts."""

    def can(one: Contestant) -> bool:
        return not one.peer or (
            settings.peer is not None and not (settings.size == "tiny" and "backbone" in one.options)
        )

    return tuple(one for one in case.contestants if can(one))


def steps_of(cases: Sequence[Case], settings: Settings) -> int:
    """How often `on_step` will be told of something, if nothing fails."""
    return sum(len(contestants_of(case, settings)) for case in cases) * (settings.rounds + STEPS)


def measure(case: Case, settings: Settings, on_step: OnStep) -> dict[str, Any]:
    """Measures a case.

    Args:
        case: what is measured.
        settings: how.
        on_step: told what begins.

    Returns:
        For each contestant every call's seconds by round, its peak of memory by round, its FLOPs; and the targets
        with what was reached. A contestant that failed has its `error` instead.
    """
    found: dict[str, dict[str, Any]] = {}
    with ExitStack() as stack:
        workers: dict[str, Worker] = {}

        def attempt(one: Contestant, doing: str, **order: Any) -> dict[str, Any]:
            """What a worker answers; nothing, and the worker leaves the case, where it fails."""
            on_step(case.name, one.name, doing)
            try:
                return workers[one.name].tell(**order)
            except BenchError as error:
                found[one.name]["error"] = str(error)
                workers.pop(one.name).end()
                return {}

        running = contestants_of(case, settings)
        for one in running:
            by = "peer" if one.peer else "plain" if one.setup == "plain" else "ours"
            found[one.name] = {"by": by, "setup": one.setup, "options": dict(one.options)}
            command = command_of(settings.peer if one.peer else None)
            workers[one.name] = stack.enter_context(Worker(command, settings.threads, keeps=not case.training))
            told = case.told(one, settings.size, settings.threads, settings.device, settings.texts, settings.folder)
            found[one.name] |= {"seconds": [], "peaks": []}
            found[one.name] |= attempt(one, "is set up", do="set up", **told)
        for one in running:
            if one.name in workers:
                attempt(one, "warms up", do="round", calls=1)
        for number in range(1, settings.rounds + 1):
            for one in running:
                if one.name in workers:
                    answer = attempt(one, f"round {number} of {settings.rounds}", do="round", calls=case.calls)
                    if answer:
                        found[one.name]["seconds"].append(answer["seconds"])
                        found[one.name]["peaks"].append(answer["peak"])
                        found[one.name]["facts"] = answer["facts"]
        for one in running:
            if one.name in workers:
                found[one.name] |= attempt(one, "counts FLOPs", do="count")
    for result in found.values():
        result |= summary(result)
    told = case.told(case.contestants[0], settings.size, settings.threads, settings.device, "")
    return {
        "name": case.name,
        "shows": case.shows,
        "size": settings.size,
        "rows": told["rows"],
        "tokens": told["tokens"],
        "training": case.training,
        "rounds": settings.rounds,
        "calls": case.calls,
        "contestants": found,
        "targets": judge(case.targets, found),
    }


def summary(result: dict[str, Any]) -> dict[str, Any]:
    """Minimum and median of a contestant's seconds, and the largest of its peaks; nothing where it failed."""
    seconds = [value for values in result["seconds"] for value in values]
    if "error" in result or not seconds:
        return {}
    return {"minimum": min(seconds), "median": statistics.median(seconds), "peak": max(result["peaks"])}
