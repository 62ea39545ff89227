"""Where a run computes: on the CPU unless it asks for a GPU, which has to be there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from compose.errors import ConfigError, RecipeError
from compose.recipes.console import Console
from compose.recipes.devices import place
from compose.recipes.runner import run
from tests import tiny
from tests.recipes.made import write_experiment


def test_each_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    model, moved = tiny.model(), list[torch.device]()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(model.backbone, "to", moved.append)
    place(model, "cpu")
    assert not moved
    place(model, "cuda")
    monkeypatch.setenv("LOCAL_RANK", "1")
    place(model, "cuda")
    assert moved == [torch.device("cuda", 0), torch.device("cuda", 1)]
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ConfigError, match="GPU 2 is needed, but torch sees 2"):
        place(model, "cuda")


def test_a_gpu_that_is_not_there_is_told_at_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    recipe = write_experiment(tmp_path)
    with pytest.raises(RecipeError, match=r"--set device=cuda: GPU 0 is needed, but torch sees 0"):
        run(recipe, ["device=cuda"], tmp_path / "run", console=Console(quiet=True))
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("run")] == []
