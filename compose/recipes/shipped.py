"""The recipes and data that come with compose: in a checkout at its top, in a wheel inside the package."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from compose.errors import RecipeError

SUFFIX = ".yaml"
LOCAL = "local/"
"""What names of recipes begin with whose data the user brings."""


@dataclass(frozen=True)
class Shipped:
    """A recipe that comes with compose: its name (`group/recipe` in a group), and its file."""

    name: str
    path: Path

    @property
    def kind(self) -> int:
        """Where lists have it: 0 for what is in no group, 2 for what needs data that its user brings, else 1."""
        return 2 if self.name.startswith(LOCAL) else int("/" in self.name)


@cache
def home() -> Path:
    """The folder that holds them."""
    package = Path(__file__).resolve().parent
    inside, checkout = package / "shipped", package.parent.parent / "recipes"
    return inside if inside.is_dir() else checkout


def shipped() -> tuple[Shipped, ...]:
    """All recipes that come with compose, by kind and name."""
    folder = home()
    found = (
        Shipped(path.relative_to(folder).with_suffix("").as_posix(), path)
        for path in folder.rglob(f"*{SUFFIX}")
        if "data" not in path.relative_to(folder).parts
    )
    return tuple(sorted(found, key=lambda recipe: (recipe.kind, recipe.name)))


def find(name: str) -> Path:
    """The file that a user means: a path, or the name of a recipe that comes with compose.

    Raises:
        RecipeError: there is neither.
    """
    path = Path(name)
    if path.is_file():
        return path
    names = {recipe.name: recipe.path for recipe in shipped()}
    plain = name.removesuffix(SUFFIX).removeprefix("recipes/")
    if plain in names:
        return names[plain]
    raise RecipeError(
        f"there is no recipe '{name}'",
        why="neither a file of that name nor a recipe that comes with compose",
        got=plain,
        legal=tuple(names),
    )


def bundled() -> tuple[str, ...]:
    """The names of the data sets that come with compose."""
    return tuple(sorted(path.parent.name for path in (home() / "data").glob("*/train.jsonl")))


def bundled_files(name: str) -> tuple[Path, Path]:
    """The files of the train and test parts of a bundled data set."""
    folder = home() / "data" / name
    return folder / "train.jsonl", folder / "test.jsonl"


def copy(name: str, target: Path) -> Path:
    """Copy a recipe, to begin one's own.

    Args:
        name: of the recipe.
        target: the file to write, or a folder for it.

    Returns:
        The file written.

    Raises:
        RecipeError: there is no such recipe, or the file is there already.
    """
    source = find(name)
    path = target / source.name if target.is_dir() else target
    if path.exists():
        raise RecipeError("the file is there already", where=str(path), hint="another name")
    if not path.parent.is_dir():
        raise RecipeError("there is no such folder", where=str(path.parent))
    shutil.copyfile(source, path)
    return path
