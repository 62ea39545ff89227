"""What a run's folder says of itself; to be read without anything that computes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MARK = "INCOMPLETE"
"""The file that a run has until it is complete."""
MANIFEST = "run.json"


def seed_folder(seed: int) -> str:
    """The name of the folder of one seed of several, in that of the run.

    >>> seed_folder(3)
    'seed-3'
    """
    return f"seed-{seed}"


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """What a finished run recorded of itself; None if the folder is none."""
    try:
        found = json.loads((folder / MANIFEST).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and "recipe" in found else None
