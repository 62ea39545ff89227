"""`compose recipe`: list, show, copy and check recipes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="List, show, copy and check recipes.", no_args_is_help=True)


@app.command("ls")
def ls() -> None:
    """List the recipes that come with compose."""
    from compose.errors import RecipeError
    from compose.recipes.shipped import shipped
    from compose.recipes.validate import read_recipe

    found = []
    for recipe in shipped():
        try:
            about = read_recipe(recipe.path)[1].description.strip().split("\n")[0]
        except RecipeError as error:
            about = f"not valid: {error.problems[0].what}"
        found.append((recipe.name, about))
    width = max((len(name) for name, _ in found), default=0)
    for name, about in found:
        print(f"{name.ljust(width)}  {about}".rstrip())


@app.command("show")
def show(
    recipe: Annotated[str, typer.Argument(help="Its name, or a file.")],
) -> None:
    """Print a recipe."""
    from compose.recipes.loader import load_file
    from compose.recipes.shipped import find

    print(load_file(find(recipe)).text, end="")


@app.command("cp")
def cp(
    recipe: Annotated[str, typer.Argument(help="Its name.")],
    target: Annotated[Path, typer.Argument(help="The file to write, or a folder.")] = Path(),
) -> None:
    """Copy a recipe, to begin your own."""
    from compose.recipes.shipped import copy

    print(copy(recipe, target))


@app.command("validate")
def validate(
    recipe: Annotated[str, typer.Argument(help="Its name, or a file.")],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Replace a value, as for `compose run`. Repeatable."),
    ] = None,
) -> None:
    """Check a recipe without running it: every mistake is told with its line."""
    from compose.recipes.shipped import find
    from compose.recipes.validate import read_recipe

    _, checked = read_recipe(find(recipe), set_ or [])
    stages, adapters = len(checked.train), len(checked.adapters)
    runs = math.prod(map(len, checked.sweep.values())) * max(1, len(checked.seeds))
    several = f", {runs} runs" if runs > 1 else ""
    print(f"{recipe}: valid ({adapters} adapters, {len(checked.heads)} heads, {stages} stages{several})")
