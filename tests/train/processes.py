"""What each of several processes does that `torchrun` starts: trains, and keeps the weights. A script of its own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from compose.dsl import Drop, Fuse, Parallel, Route
from compose.recipes.console import Console
from compose.recipes.runner import run
from compose.runtime.model import Model
from compose.train.fit import History, Settings, fit
from compose.train.processes import rank, world
from compose.train.rows import apart
from tests.train import test_masking as language
from tests.train.test_options import groups_of, model, trained


def fused() -> tuple[Model, History]:
    """A fusion with its regularisation, over layers that are drawn at random."""
    made = model()
    made.add_fusion(Fuse("a", "b", name="f"), dropout_prob=0.0, temperature=True)
    expression: Any = Parallel(first=Drop(Fuse("a", "b", name="f"), first=(0, 1)))
    made.train_only(expression, "fusion")
    only = [group for group in apart(groups_of(made)) if group.tasks == ("first",)]
    return made, fit(made, made.plan(expression), only, Settings(2, 4, 1e-2))


def masked() -> tuple[Model, History]:
    """A language from texts alone, its masks drawn anew at each step."""
    return language.trained(batch_size=3)


def results() -> dict[str, tuple[Model, History]]:
    """What is trained, by name."""
    return {
        "both": trained(batch_size=3, loss_weights={"town": 0.3}),
        "without rows": trained(batch_size=7, weight_decay=0.1),  # the second step of an epoch has one row
        "parts": trained(batch_size=2, gradient_accumulation=3, class_weights={"town": "balanced"}),
        "recomputed": trained(gradient_checkpointing=True),
        "routed": trained(Route(first="a", town="b"), batch_size=3),
        "fused": fused(),
        "masked": masked(),
    }


def main() -> None:
    folder = Path(sys.argv[1])
    assert world() == 2
    torch.set_num_threads(1)
    for name, (made, history) in results().items():
        state = {key: value.contiguous().clone() for key, value in made.state_dict().items()}
        state["losses"] = torch.tensor(history.losses, dtype=torch.float64)
        save_file(state, folder / f"{name}-{rank()}.safetensors")
    run(folder / "made.yaml", out=folder / "run", console=Console(quiet=True))


if __name__ == "__main__":
    main()
