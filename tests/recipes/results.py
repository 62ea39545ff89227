"""Folders of finished runs, made without running anything."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from compose.errors import RecipeError
from compose.recipes.console import Console
from compose.recipes.folder import RunFolder
from compose.recipes.job import Job
from compose.recipes.manifest import seed_folder

EVIL = "</script><b>&\"'`|*$x$"
"""A text that no report may take for anything but a text."""


def metrics(seed: int, score: float = 0.8, tasks: tuple[str, ...] = ("topic", "town")) -> dict[str, Any]:
    """What one seed's `metrics.json` holds: two systems, the second 0.1 below the first."""
    every = {name: score - shift for name, shift in (("composed", 0.0), ("TF-IDF", 0.1))}
    main = {task: "f1" if task == "town" else "accuracy" for task in tasks}
    counts = [[8 + seed, 2], [1, 9]]
    details: dict[str, Any] = {
        "topic": {"confusion": {"labels": ["first", EVIL], "counts": counts}},
        "town": {"types": {"city": {"precision": 0.5, "recall": 1.0, "f1": 2 / 3, "support": 4}}},
    }
    boxes = [
        {"lines": ["input"], "sources": []},
        {"lines": ["layers 0-5", "ffn: topic"], "sources": [0]},
        {"lines": [f"head {EVIL}"], "sources": [1]},
        {"lines": ["head town"], "sources": [1]},
    ]
    weights = {"topic": 0.25 * seed, "town": 1 - 0.25 * seed}
    return {
        "recipe": "made",
        "seed": seed,
        "stages": [
            {
                "name": "both",
                "expression": f'Parallel("topic", "{EVIL}")',
                "regime": "adapters",
                "trained_parameters": 1234,
                "parameters": 100_000,
                "examples": {"topic": 40, "town": 30},
                "epochs": 3,
                "learning_rate": 1e-4,
                "losses": [1.0, 0.5, 0.1 * seed],
                "validation": [{"topic": {"accuracy": 0.1 * seed * epoch}} for epoch in (1, 2, 3)],
                "seconds": 2.0 * seed,
                "epoch_seconds": [1.0 * seed, 0.5 * seed, 0.5 * seed],
            }
        ],
        "main": main,
        "scores": {
            name: {task: {metric: value, "other": value / 2} for task, metric in main.items()}
            for name, value in every.items()
        },
        "means": every,
        "details": {name: {task: details[task] for task in tasks if task in details} for name in every},
        "parts": [{"name": "topic", "what": "adapter", "method": "bottleneck", "parameters": 560, "bytes": 2240}],
        "systems": {
            "composed": {
                "expression": 'Parallel("topic", "town")', "parameters": 941, "bytes": 3764, "boxes": boxes,
                "rows": 8, "tokens": 128, "flops": 2 * 10**9, "separate_flops": 3 * 10**9, "plain_flops": 10**9,
            }
        },
        "drop_curve": [
            {
                "first": first, "scores": {task: {metric: score - 0.1 * first} for task, metric in main.items()},
                "mean": score - 0.1 * first, "rows": 16, "tokens": 32, "milliseconds": 50.0 - 10 * first,
                "flops": (3 - first) * 10**9,
            }
            for first in (0, 1, 2)
        ],
        "fusion_attention": {
            "urgency": {
                "expression": "", "mean": weights,
                "rows": [{"layer": layer, "site": "ffn", "weights": weights} for layer in (0, 1)],
            }
        },
        "compare": [
            {
                "messages": 1, "tokens": 9, "one_pass": {"milliseconds": 10.0, "flops": 10**9},
                "separate": {"milliseconds": 25.0, "flops": 2 * 10**9}, "largest_difference": 1e-7,
            }
        ],
        "predictions": [{"text": EVIL, "answers": {"topic": {"label": EVIL, "probability": 0.9}}}],
        "cut": [{"where": "test part", "data": "topic", "texts": 1, "of": 9}],
    }  # fmt: skip


def pretend(job: Job, console: Console) -> Path:
    """In place of a run: what one would leave, its score told by the learning rate; some rates fail in some way."""
    rate = job.recipe.train[0].rate
    console.say(f"a rate of {rate:g}")
    if rate == 3:
        raise RecipeError("the loss is nan")
    if rate == 4:
        raise MemoryError("no room")
    if rate == 5:
        os._exit(9)
    return finished(job.target, job.recipe.seeds or (1,), score=0.5 + rate / 10)


def finished(
    target: Path, seeds: tuple[int, ...] = (1,), score: float = 0.8, tasks: tuple[str, ...] = ("topic", "town")
) -> Path:
    """The folder of a run of some seeds; the second seed's scores are 0.05 above the first's, and so on."""
    folder = RunFolder(target, "made")
    resolved = (
        f"recipe: 1\nname: made\ndescription: '{EVIL.replace(chr(39), chr(39) * 2)}'\nbackbone: {{name: minilm}}\n"
    )
    folder.write_text("resolved.yaml", resolved)
    for number, seed in enumerate(seeds):
        if len(seeds) > 1:
            (folder.path / seed_folder(seed)).mkdir()
        name = f"{seed_folder(seed)}/metrics.json" if len(seeds) > 1 else "metrics.json"
        folder.write_json(name, metrics(seed, score + 0.05 * number, tasks))
    facts = {"recipe": "made", "overrides": ["name=a b"], "peak_memory_mib": 900}
    return folder.finish({**facts, **({"seeds": list(seeds)} if len(seeds) > 1 else {"seed": seeds[0]})})
