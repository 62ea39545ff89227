"""Two processes that train together end with the weights of one, within rounding."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from compose.recipes.console import Console
from compose.recipes.folder import read_manifest
from compose.recipes.runner import run
from tests.recipes.made import write_experiment
from tests.train.processes import results

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    recipe = write_experiment(folder)
    text = recipe.read_text("utf-8").replace("batch_size: 8", "batch_size: 6")
    recipe.write_text(text + "report: {plots: false}\n", "utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "tests.train.processes", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return folder


def test_two_are_as_one(place: Path) -> None:
    for name, (made, history) in results().items():
        first, second = (load_file(place / f"{name}-{rank}.safetensors") for rank in (0, 1))
        assert first.pop("losses").tolist() == pytest.approx(history.losses, rel=1e-9), name
        for key, value in made.state_dict().items():
            assert torch.equal(first[key], second[key]), f"{name}: {key} differs between processes"
            torch.testing.assert_close(first[key], value, rtol=1e-7, atol=1e-9, msg=f"{name}: {key}")


def test_only_the_first_writes_a_run(place: Path) -> None:
    alone = run(place / "made.yaml", out=place / "alone", console=Console(quiet=True))
    one, two = (json.loads((folder / "metrics.json").read_text()) for folder in (alone, place / "run"))
    manifest = read_manifest(place / "run")
    assert manifest is not None and manifest["status"] == "complete"
    assert set(manifest["sha256"]) == set((read_manifest(alone) or {})["sha256"])
    # Dropout, which each process draws for itself, is on: so losses are close, not the same.
    assert two["stages"][0]["losses"] == pytest.approx(one["stages"][0]["losses"], rel=0.2)
