"""What a run's systems are: their execution graphs, what they cost, and the parameters of their parts."""

from __future__ import annotations

from typing import Any

from compose.dsl import Expression, fuses, leaves, own_name
from compose.graph.draw import picture
from compose.recipes.document import KeyPath
from compose.recipes.experiment import Experiment
from compose.recipes.expressions import tasks_of
from compose.recipes.saved import SECTIONS, loaded

ROWS = 8
TOKENS = 128
"""The batch that costs are given for."""


def describe_parts(experiment: Experiment) -> list[dict[str, Any]]:
    """Every adapter, fusion and head, and the backbone: name, kind, method, number of parameters and their bytes.

    What was loaded has under `loaded` the folder, as the recipe names it.
    """
    folders: dict[tuple[str, str], str] = {
        (SECTIONS[part.section], part.name): _given(experiment.document.data, part.path)
        for part in loaded(experiment.recipe)
    }
    found = []
    for row in experiment.model.summary().rows:
        told = {key: getattr(row, key) for key in ("name", "what", "method", "parameters", "bytes")}
        folder = folders.get((row.what, row.name))
        found.append(told if folder is None else {**told, "loaded": folder})
    return found


def _given(data: Any, path: KeyPath) -> Any:
    """What stands at a place of a recipe."""
    for step in path:
        data = data[step]
    return data


def describe_systems(experiment: Experiment, parts: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What each evaluated expression runs and costs; where none is, that of `predict`.

    Args:
        experiment: what was run.
        parts: as `describe_parts` gives them.

    Returns:
        By system its `expression`, the number of its `parameters` beside the backbone's and their `bytes`, the
        `boxes` of its graph, and for a batch of `rows` of `tokens` each its FLOPs, those of a pass for each task, and
        of the backbone alone.
    """
    recipe = experiment.recipe
    found: dict[str, dict[str, Any]] = {}
    texts: dict[str, tuple[KeyPath, str]] = {
        name if each.only is None else f"{name} ({each.only})": (each.path, each.text)
        for name, members in experiment.evaluated.systems.items()
        for each in members
    }
    if not texts and recipe.predict is not None:
        texts = {"answers": (("predict", "expression"), recipe.predict.expression)}
    for name, (path, text) in texts.items():
        plan = experiment.plan(path, text)
        explained = plan.explain(rows=ROWS, tokens=TOKENS)
        names = _names(plan.expression)
        found[name] = {
            "expression": text,
            **{
                key: sum(part[key] for part in parts if (part["what"], part["name"]) in names)
                for key in ("parameters", "bytes")
            },
            "boxes": [{"lines": list(box.text()), "sources": box.sources} for box in picture(explained.graph)],
            "rows": ROWS,
            "tokens": explained.tokens,
            "flops": explained.flops,
            "separate_flops": explained.separate_flops,
            "plain_flops": explained.plain.flops,
        }
    return found


def _names(expression: Expression) -> set[tuple[str, str]]:
    """What an expression uses of a model: kinds and names."""
    found = {("adapter", name) for name in leaves(expression)}
    found |= {("fusion", own_name(fuse) or "") for fuse in fuses(expression)}
    return found | {("head", task) for task in tasks_of(expression) if task is not None}
