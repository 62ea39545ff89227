"""Data of the right shape for recipes whose data their users bring."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from compose.recipes.loader import load_file
from compose.recipes.shipped import Shipped
from compose.recipes.sources import LOCAL_PARTS

ROWS = 12
"""Of each file."""

MADE: dict[str, Any] = {
    "text": "a text of number {}",
    "pair": "another text of number {}",
    "tokens": ["words", "of", "Ada"],
    "tags": ["O", "O", "B-PER"],
    "label": "label {}",
    "labels": ["one", "two"],
    "score": 0.5,
}
"""What stands in a column, by the key that names it."""


def bring(recipe: Shipped, folder: Path) -> list[str]:
    """Writes the files that a recipe's first line asks for; gives the overrides that name them.

    Args:
        recipe: the recipe.
        folder: where to.
    """
    document = load_file(recipe.path)
    if "--set data_folder=FOLDER" not in document.text.partition("\n")[0]:
        return []
    for source in document.data["data"].values():
        for part in LOCAL_PARTS:
            if isinstance(source.get(part), str):
                path = folder / source[part]
                path.parent.mkdir(parents=True, exist_ok=True)
                write = gzip.open if path.suffix == ".gz" else open
                with write(path, "wt", encoding="utf-8") as file:
                    file.writelines(json.dumps(_row(source, number)) + "\n" for number in range(ROWS))
    return [f"data_folder={folder}"]


def _row(source: dict[str, Any], number: int) -> dict[str, Any]:
    columns = {key: source[key] for key in MADE if key in source}
    if "tokens" not in source:
        columns.setdefault("text", "text")
    made = {column: MADE[key] for key, column in columns.items()}
    return {column: value.format(number % 2) if isinstance(value, str) else value for column, value in made.items()}
