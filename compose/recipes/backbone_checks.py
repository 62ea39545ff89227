"""What is wrong with a recipe's backbone, as far as it can be told without loading one."""

from __future__ import annotations

from collections.abc import Iterator

from compose.backbones.resolve import TABLES
from compose.errors import ConfigError, Problem
from compose.recipes.data_checks import mixed_modalities, modality_problems
from compose.recipes.document import Document
from compose.recipes.schema import Recipe


def backbone_problems(recipe: Recipe, document: Document) -> Iterator[Problem]:
    """What is wrong with the backbone of a recipe, and with the data for one that is made of a config.

    Args:
        recipe: the recipe.
        document: where things stand in it.
    """
    backbone = recipe.backbone
    at = document.place(("backbone",), key=True)
    if backbone.name is not None and backbone.architecture is not None:
        yield at.problem("backbone: name and architecture exclude each other", hint="name: minilm")
    elif backbone.name is None and backbone.architecture is None:
        yield at.problem("backbone needs a name, or an architecture to make it of", hint="backbone: minilm")
    elif backbone.architecture is not None:
        yield from _config_problems(recipe, document)
        if backbone.architecture in TABLES:
            yield from modality_problems(recipe, document, TABLES[backbone.architecture][0].modality)
    else:
        yield from mixed_modalities(recipe, document)
        if backbone.config is not None:
            at = document.place(("backbone", "config"), key=True)
            yield at.problem("backbone.config is for an architecture: a name says it all", hint="architecture: vit")


def _config_problems(recipe: Recipe, document: Document) -> Iterator[Problem]:
    from compose.runtime.random_backbone import random_config  # only such recipes need transformers to be checked

    config = recipe.backbone.config or {}
    try:
        random_config(recipe.backbone.architecture or "", config)
    except ConfigError as error:
        for problem in error.problems:
            key = next((key for key in config if f"'{key}'" in problem.what or f".{key} " in problem.what), None)
            path = ("backbone", "config", key) if key else ("backbone", "architecture")
            place = document.place(path, key=problem.got == key)
            what = f"backbone: {problem.what}" if key is None else f"backbone.{problem.what}"
            yield place.problem(what, why=problem.why, hint=problem.hint, got=problem.got, legal=problem.legal)
