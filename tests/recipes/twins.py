"""Files of the right shape for recipes whose data are files that one has to bring."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from compose.recipes.loader import load_text
from compose.recipes.sources import LOCAL_PARTS

ROWS = 12


def made_files(recipe: Path, folder: Path) -> list[str]:
    """Writes the files that a recipe's sources of JSON lines name; gives the overrides with which they are read."""
    columns: dict[str, dict[str, str]] = {}
    for source in load_text(recipe.read_text("utf-8")).data["data"].values():
        if source["kind"] == "jsonl":
            for part in LOCAL_PARTS:
                if isinstance(source.get(part), str):
                    columns.setdefault(source[part], {"text": source.get("text", "text")}).update(
                        {key: source[key] for key in VALUES if key in source}
                    )
    for name, named in columns.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [{column: VALUES[key](number) for key, column in named.items()} for number in range(ROWS)]
        text = "\n".join(map(json.dumps, rows)).encode()
        path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    return [f"data_folder={folder}"] if columns else []


VALUES: dict[str, Any] = {
    "text": lambda number: f"text {number}",
    "pair": lambda number: f"other {number}",
    "tokens": lambda number: ["a", "town"],
    "label": lambda number: ("negative", "neutral", "positive")[number % 3],
    "labels": lambda number: [("joy", "anger")[number % 2]],
    "score": lambda number: number / ROWS,
    "entities": lambda number: [],
    "tags": lambda number: ["O", "B-LOC"],
}
"""What columns hold, by the number of the row."""
