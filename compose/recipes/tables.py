"""Results as tables and lines, for the terminal and the report alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from compose.recipes.console import table

Scores = Mapping[str, Mapping[str, Mapping[str, float]]]


def score_table(scores: Scores, main: Mapping[str, str], means: Mapping[str, float]) -> str:
    """The main score of each task by each system, and the means."""
    systems = list(scores)
    rows = [
        [f"{task} ({metric})", *(_percent(scores[system].get(task, {}).get(metric)) for system in systems)]
        for task, metric in main.items()
    ]
    rows.append(["mean", *(_percent(means[system]) for system in systems)])
    return table(["task", *systems], rows)


def estimate_table(results: Mapping[str, Any]) -> str:
    """The same over seeds: means, and half of their 95 % intervals."""
    systems = list(results["scores"])
    rows = [
        [f"{task} ({metric})", *(spread(results["scores"][system].get(task, {}).get(metric)) for system in systems)]
        for task, metric in results["main"].items()
    ]
    rows.append(["mean", *(spread(results["means"][system]) for system in systems)])
    return table(["task", *systems], rows)


def spread(found: Mapping[str, Any] | None) -> str:
    """An estimate in percent, with half its interval; empty for None.

    >>> spread({"mean": 0.9, "high": 0.912}), spread({"mean": 0.9, "high": None})
    ('90.0 ± 1.2', '90.0')
    """
    if found is None:
        return ""
    half = "" if found["high"] is None else f" ± {100 * (found['high'] - found['mean']):.1f}"
    return f"{100 * found['mean']:.1f}{half}"


def curve_table(curve: Sequence[Mapping[str, Any]], main: Mapping[str, str], key: str, title: str) -> str:
    """Scores and speed by what a curve goes along.

    Args:
        curve: its points.
        main: the main metric of each task.
        key: of a point, where it is.
        title: of that.
    """
    tasks = list(curve[0]["scores"])
    rows = [
        [
            f"{point[key]}",
            *(_percent(point["scores"][task][main[task]]) for task in tasks),
            _percent(point["mean"]),
            f"{point['milliseconds']:.0f}",
            gigaflops(point["flops"]),
        ]
        for point in curve
    ]
    return table([title, *tasks, "mean", "ms", "GFLOPs"], rows)


def compare_table(found: Sequence[Mapping[str, Any]]) -> str:
    """Time and FLOPs of one pass and of a pass for each task."""
    rows = []
    for row in found:
        one, several = row["one_pass"], row["separate"]
        rows.append(
            [
                f"{row['messages']}",
                f"{one['milliseconds']:.1f}",
                f"{several['milliseconds']:.1f}",
                f"{several['milliseconds'] / one['milliseconds']:.2f} x",
                gigaflops(one["flops"]),
                gigaflops(several["flops"]),
                f"{several['flops'] / one['flops']:.2f} x",
                f"{row['largest_difference']:.0e}",
            ]
        )
    header = ["inputs", "one pass, ms", "separate, ms", "faster"]
    header += ["one pass, GFLOPs", "separate, GFLOPs", "fewer", "difference"]
    return table(header, rows)


def answer_lines(prediction: Mapping[str, Any]) -> str:
    """A message and what each task says of it."""
    lines = [prediction["text"]]
    lines += [f"  {task}: {told(answer)}" for task, answer in prediction["answers"].items()]
    return "\n".join(lines)


def cut_line(row: Mapping[str, Any]) -> str:
    """How many texts lost their ends.

    >>> cut_line({"where": "test part", "data": "topic", "texts": 3, "of": 600})
    'test part: 3 of 600 texts of topic are longer than the backbone takes, and were cut'
    """
    return (
        f"{row['where']}: {row['texts']} of {row['of']} texts of {row['data']} "
        "are longer than the backbone takes, and were cut"
    )


def told(answer: Mapping[str, Any]) -> str:
    """One task's answer in words."""
    if "label" in answer:
        return f"{answer['label']} ({_percent(answer['probability'])})"
    if "labels" in answer:
        return ", ".join(answer["labels"]) or "none"
    if "entities" in answer:
        return ", ".join(f"{found['text']} ({found['type']})" for found in answer["entities"]) or "none"
    if "answer" in answer:
        return f"{answer['answer'] or 'no answer'} ({_percent(answer['probability'])})"
    if "masked" in answer or "next" in answer:
        tokens = [best[0] for best in answer["masked"]] if "masked" in answer else answer["next"]
        return ", ".join(f"{found['token']} ({_percent(found['probability'])})" for found in tokens) or "none"
    return ", ".join(f"{key} {value}" for key, value in answer.items())


def gigaflops(flops: float) -> str:
    """FLOPs in units of 10^9.

    >>> gigaflops(12_345_678_901)
    '12.35'
    """
    return f"{flops / 1e9:.2f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def sweep_table(trials: Sequence[Any], scores: Callable[[Any], Mapping[str, Any]]) -> str:
    """The members of a sweep, and the mean score of each system of each."""
    found = [{name: score.to_dict() for name, score in scores(trial).items()} for trial in trials]
    systems = list(dict.fromkeys(name for each in found for name in each))
    rows = [
        [trial.name, *(spread(each.get(name)) if trial.run else "failed" for name in systems)]
        for trial, each in zip(trials, found, strict=True)
    ]
    return table(["member", *systems], rows)
