"""Takes what a recipe loads into its model, and says what was loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from compose.errors import ComposeError, FileError, RecipeError
from compose.io.weights import dump_weights
from compose.recipes.checks import check
from compose.recipes.document import Document
from compose.recipes.saved import Loaded, head_of, loaded, stated
from compose.recipes.schema import Recipe
from compose.runtime.model import Model

LOADERS: Mapping[str, Callable[..., Callable[..., str]]] = {
    "adapters": lambda model: model.load_adapter,
    "heads": lambda model: model.load_head,
    "fusions": lambda model: model.load_fusion,
}
"""What loads the parts of a section."""


def load_part(model: Model, part: Loaded) -> None:
    """Loads a part under the recipe's name for it.

    Raises:
        ComposeError: it is damaged, or made for another backbone.
    """
    options = {"allow_backbone": bool(part.says.allow_backbone), **part.says.options}
    try:
        LOADERS[part.section](model)(part.folder, part.name, **options)
    except ComposeError as error:
        hints = [problem.hint.replace("allow_backbone=True", "allow_backbone: true") for problem in error.problems]
        raise FileError([replace(each, hint=hint) for each, hint in zip(error.problems, hints, strict=True)]) from error


def check_heads(model: Model, recipe: Recipe, document: Document) -> None:
    """Checks what could not be checked before: loaded heads of which no manifest of ours says what they are.

    Raises:
        RecipeError: everything that does not go with one of them.
    """
    known = dict(stated(recipe).heads)
    foreign = [name for name, head in known.items() if head.kind is None]
    heads = {**recipe.heads, **{name: head_of(model.heads[name].config) for name in foreign}}
    problems = check(recipe.model_copy(update={"heads": heads}), document) if foreign else []
    if problems:
        raise RecipeError(problems)


def loaded_weights(model: Model, recipe: Recipe) -> dict[str, dict[str, Any]]:
    """What a recipe loads, by its place (`adapters.nli`): its config, and the sha256 of its weights as they are now.

    The sha256 is that of the file, where this is one of ours and its weights are of the model's type.
    """
    found = {}
    for part in loaded(recipe):
        module = getattr(model, part.section)[part.name]
        digest = hashlib.sha256(dump_weights(module.tensors())).hexdigest()
        found[f"{part.section}.{part.name}"] = {"config": module.config.to_dict(), "sha256": digest}
    return found
