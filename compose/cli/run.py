"""`compose run`: train, measure and report what a recipe says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from compose.cli.libraries import prepare_libraries


def command(
    recipe: Annotated[str, typer.Argument(help="A recipe's file, or the name of one that comes with compose.")],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Replace a value: --set train.0.epochs=3. Repeatable."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the results; runs/NAME by default.")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a run of another recipe in that folder.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted run; its weights come out the same, to the bit.")
    ] = False,
    smoke: Annotated[
        bool,
        typer.Option(
            "--smoke", help="Try it offline in seconds: a tiny random backbone, made data, two steps a stage."
        ),
    ] = False,
    jobs: Annotated[
        int, typer.Option("--jobs", min=1, help="Members of a sweep that run side by side, each in its own process.")
    ] = 1,
) -> None:
    """Run a recipe: train, evaluate, and write a folder with weights, metrics and a report.

    A recipe with several seeds runs once for each, one with a sweep once for each of its members. If members
    of a sweep fail, the others are complete, and the exit code is 1.
    """
    from compose.recipes.manifest import read_manifest
    from compose.recipes.shipped import find
    from compose.recipes.validate import read_recipe

    path = find(recipe)
    if not smoke:
        read_recipe(path, set_ or [])  # mistakes are told at once, before torch is imported
    prepare_libraries()
    from compose.recipes.runner import run

    done = run(path, set_ or [], out, overwrite, jobs=jobs, resume=resume, smoke=smoke)
    if (read_manifest(done) or {}).get("failed"):
        raise typer.Exit(1)
