"""The files that the user of a recipe has to bring, made of the shape that the recipe says."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from compose.recipes.document import Document
from compose.recipes.schema import Local, Recipe
from compose.recipes.shipped import LOCAL, Shipped
from compose.recipes.smoke.data import made_files
from compose.recipes.smoke.parts import made_parts
from compose.recipes.validate import read_recipe


def read(recipe: Shipped, folder: Path) -> tuple[Document, Recipe]:
    """A recipe that comes with compose; the data of one whose user brings them are made in a folder."""
    if not recipe.name.startswith(LOCAL):
        return read_recipe(recipe.path)
    return read_recipe(recipe.path, [f"data_folder={folder}"], _bring)


def _bring(recipe: Recipe, document: Document) -> Recipe:
    sources = {name: source for name, source in recipe.data.items() if isinstance(source, get_args(Local))}
    for path, made in made_files(recipe, Path(document.source).parent, sources).items():
        made.write_to(Path(path))
    return recipe.model_copy(update=made_parts(recipe))  # what it loads nobody has trained here
