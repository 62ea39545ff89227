"""The data sources of a recipe, as files and columns."""

from __future__ import annotations

from pathlib import Path

from compose.recipes.schema import Bundled, DataSource, Recipe
from compose.recipes.shipped import bundled_files
from compose.train.data import Columns, Dataset, read_dataset


def files_of(source: DataSource, folder: Path) -> tuple[Path, Path | None]:
    """The files of a source's train and test parts; `folder` is where its relative paths begin."""
    if isinstance(source, Bundled):
        return bundled_files(source.name)
    return folder / source.train, folder / source.test if source.test else None


def columns_of(source: DataSource) -> Columns:
    """Which columns hold what."""
    named = {name: getattr(source, name) for name in ("pair", "tokens", "label", "entities", "tags")}
    return Columns(text=source.text or "text", **named)


def read_sources(recipe: Recipe, folder: Path, names: set[str]) -> dict[str, Dataset]:
    """The data of some of a recipe's sources.

    Args:
        recipe: the recipe.
        folder: where relative paths begin.
        names: of the sources.

    Raises:
        FileError: files that are missing or damaged.
    """
    found = {}
    for name in sorted(names):
        source = recipe.data[name]
        train, test = files_of(source, folder)
        sizes = {"train": source.sample.train, "test": source.sample.test}
        found[name] = read_dataset(name, columns_of(source), train, test, sizes, recipe.seed)
    return found
