"""Parts that a recipe loads, made anew: what was trained for its backbone does not fit a tiny one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compose.dsl import as_expression, fuses, own_name, to_text
from compose.errors import ComposeError
from compose.recipes.schema import Adapter, Fusion, Head, Recipe
from compose.recipes.sources import columns_of
from compose.train.data import Target

METHOD = "seq_bn"
"""What is made in the place of an adapter that is loaded."""

KINDS: Mapping[Target, str] = {
    "label": "classification",
    "labels": "multi_label",
    "score": "regression",
    "entities": "tagging",
    "tags": "tagging",
    "answers": "question_answering",
    "text": "causal_lm",
}
"""The kind of head that learns from data labelled so."""


def made_parts(recipe: Recipe) -> dict[str, Any]:
    """The recipe's adapters, heads and fusions, none of which is loaded."""
    fusions = {own_name(fuse): to_text(fuse) for text in _texts(recipe) for fuse in _fuses(text)}
    return {
        "adapters": {name: Adapter(method=METHOD) if each.load else each for name, each in recipe.adapters.items()},
        "heads": {name: Head(kind=_kind(recipe, name)) if each.load else each for name, each in recipe.heads.items()},
        "fusions": {
            name: Fusion(expression=fusions[name]) if each.load and name in fusions else each
            for name, each in recipe.fusions.items()
            if not each.load or name in fusions
        },
    }


def _kind(recipe: Recipe, task: str) -> str:
    """The kind of head that learns from a task's data."""
    chosen = [stage.data[task] for stage in recipe.train if task in stage.data]
    source = recipe.data.get([*chosen, *recipe.evaluate.data.get(task, ()), task][0])
    return "classification" if source is None else KINDS[columns_of(source).target]


def _texts(recipe: Recipe) -> list[str]:
    answering = [recipe.predict.expression] if recipe.predict is not None else []
    return [*(stage.expression for stage in recipe.train), *recipe.evaluate.texts(), *answering]


def _fuses(text: str) -> tuple[Any, ...]:
    try:
        return fuses(as_expression(text))
    except ComposeError:  # which is told of when it is checked
        return ()
