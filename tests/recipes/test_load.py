"""Recipes that use what was trained before: adapters, heads and fusions from folders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from compose.recipes.console import Console
from compose.recipes.runner import run
from compose.recipes.validate import read_recipe
from tests.recipes.made import write_experiment

FIRST = """\
recipe: 1
name: first
seed: 3
backbone: {name: BACKBONE}
data:
  letter: {kind: jsonl, train: rows.jsonl, test: rows.jsonl, label: letter}
  town: {kind: jsonl, train: rows.jsonl, test: rows.jsonl, entities: towns}
adapters:
  letter: {method: seq_bn, reduction_factor: 2}
  town: {method: seq_bn, reduction_factor: 4}
heads:
  letter: {kind: classification, pooling: mean}
  town: {kind: tagging}
fusions:
  both: {expression: 'Fuse("letter", "town")'}
train:
  - {expression: 'Parallel("letter", "town")', epochs: 1, learning_rate: 1e-2}
evaluate: {expressions: {composed: 'Parallel("letter", "town")'}}
"""

SECOND = """\
recipe: 1
name: second
seed: 4
backbone: {name: BACKBONE}
data:
  length: {kind: jsonl, train: rows.jsonl, test: rows.jsonl, label: length}
  letter: {kind: jsonl, train: rows.jsonl, test: rows.jsonl, label: letter}
adapters:
  a: {load: first/adapters/letter}
  b: {load: first/adapters/town}
heads:
  length: {kind: classification, pooling: mean}
  letter: {load: first/heads/letter}
fusions:
  length: {expression: 'Fuse("a", "b")'}
train:
  - {expression: 'Fuse("a", "b", name="length")', regime: fusion, epochs: 1}
evaluate:
  expressions: {fused: 'Parallel(Fuse("a", "b", name="length"), letter="a")'}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("load")
    write_experiment(folder)
    (folder / "first.yaml").write_text(FIRST.replace("BACKBONE", str(folder / "backbone")), "utf-8")
    (folder / "second.yaml").write_text(SECOND.replace("BACKBONE", str(folder / "backbone")), "utf-8")
    run(folder / "first.yaml", out=folder / "first", console=Console(quiet=True))
    run(folder / "second.yaml", out=folder / "second", console=Console(quiet=True))
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from compose import io as files

    return files.load_adapter(folder).tensors


def test_loaded_adapters_are_fused_and_stay_as_they_were(place: Path) -> None:
    for name, source in (("a", "letter"), ("b", "town")):
        before, after = weights(place / "first/adapters" / source), weights(place / "second/adapters" / name)
        assert all(torch.equal(before[key], after[key]) for key in before) and before.keys() == after.keys()
    scores = [json.loads((place / name / "metrics.json").read_text())["scores"] for name in ("first", "second")]
    assert scores[1]["fused"]["letter"] == scores[0]["composed"]["letter"]


def test_the_folder_says_what_was_loaded(place: Path) -> None:
    facts = json.loads((place / "second/run.json").read_text())
    said = json.loads((place / "first/adapters/letter/adapter.json").read_text())
    assert facts["fingerprints"]["loaded"]["adapters.a"] == {"config": said["config"], "sha256": said["sha256"]}
    assert set(facts["fingerprints"]["loaded"]) == {"adapters.a", "adapters.b", "heads.letter"}
    parts = {
        part["name"]: part.get("loaded") for part in json.loads((place / "second/metrics.json").read_text())["parts"]
    }
    assert parts["a"] == "first/adapters/letter" and parts["length"] is None
    assert "loaded from first/adapters/letter" in (place / "second/report.md").read_text()
    _, resolved = read_recipe(place / "second/resolved.yaml")
    assert resolved.adapters["a"].load == str(place / "first/adapters/letter")
    assert "sparsity" not in (place / "second/resolved.yaml").read_text()
