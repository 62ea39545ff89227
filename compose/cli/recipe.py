"""`compose recipe`: list, show, copy, check and compare recipes."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="List, show, copy, check and compare recipes.", no_args_is_help=True)


class Format(StrEnum):
    """How to say it."""

    json = "json"
    markdown = "markdown"


@app.command("ls")
def ls() -> None:
    """List the recipes that come with compose."""
    from compose.recipes.include import load_recipe
    from compose.recipes.shipped import shipped

    # Read, not checked: the data of some is for their users to name.
    found = shipped()
    width = max((len(recipe.name) for recipe in found), default=0)
    for place, recipe in enumerate(found):
        if place and recipe.kind != found[place - 1].kind:
            print()
        about = str(load_recipe(recipe.path).data.get("description", "")).strip().split("\n")[0]
        print(f"{recipe.name.ljust(width)}  {about}".rstrip())


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
    from compose.recipes.members import count
    from compose.recipes.schema import Hub
    from compose.recipes.shipped import find
    from compose.recipes.validate import read_recipe

    _, checked = read_recipe(find(recipe), set_ or [])
    stages, adapters = len(checked.train), len(checked.adapters)
    runs = count(checked.sweep) * max(1, len(checked.seeds))
    several = f", {runs} runs" if runs > 1 else ""
    print(f"{recipe}: valid ({adapters} adapters, {len(checked.heads)} heads, {stages} stages{several})")
    unread = [f"data.{name}" for name, source in checked.data.items() if isinstance(source, Hub)]
    if unread:
        print(f"not looked at, since of the hub: {', '.join(unread)}")


@app.command("schema")
def schema(
    out: Annotated[Path | None, typer.Option("--out", help="The file to write, in place of printing it.")] = None,
    format_: Annotated[
        Format, typer.Option("--format", help="JSON Schema, for editors, or tables of all keys.")
    ] = Format.json,
) -> None:
    """What a recipe may say, as a JSON Schema: editors complete and check recipes by it."""
    import json

    from compose.recipes.json_schema import json_schema
    from compose.recipes.reference import tables

    text = tables() if format_ is Format.markdown else json.dumps(json_schema(), indent=2, ensure_ascii=False)
    if out is None:
        print(text)
        return
    from compose.errors import FileError

    try:
        out.write_text(text + "\n", "utf-8")
    except OSError as error:
        raise FileError(f"cannot be written: {error.strerror or error}", where=str(out)) from None
    print(out)


@app.command("diff")
def diff(
    first: Annotated[str, typer.Argument(help="A recipe: its name, or a file.")],
    second: Annotated[str, typer.Argument(help="Another.")],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Replace a value of the second. Repeatable."),
    ] = None,
) -> None:
    """Compare what two recipes say, defaults and included files too; the exit code is 0 even if they differ."""
    from compose.recipes.difference import differences
    from compose.recipes.shipped import find
    from compose.recipes.validate import read_recipe

    old, new = read_recipe(find(first))[1], read_recipe(find(second), set_ or [])[1]
    for line in differences(old, new) or ["no difference"]:
        print(line)
