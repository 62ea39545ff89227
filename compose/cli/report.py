"""`compose report`: what finished runs did and found, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="The folders of finished runs.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for the report; reports/ and the runs' names by default.")
    ] = None,
    per_layer: Annotated[bool, typer.Option("--per-layer", help="Show where fusions look in each layer, too.")] = False,
) -> None:
    """Report runs as one page of HTML and as Markdown; of several runs, their systems side by side.

    It needs the runs' folders only, not their backbone.
    """
    from compose.recipes.report.write import MARKDOWN, report

    page = report(runs, out, per_layer)
    print(f"report in {page} and {page.with_name(MARKDOWN)}")
