"""Runs that are killed with SIGKILL, at steps, within the writing of files, at their very end; and go on."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from compose.errors import FileError
from compose.recipes.console import Console
from compose.recipes.folder import MARK, read_manifest
from compose.recipes.runner import run
from tests.heads.texts import bert, tokenizer
from tests.tiny import randomize

ROOT = Path(__file__).resolve().parent.parent.parent
RECIPE = """\
recipe: 1
name: tiny
backbone: {name: BACKBONE}
data:
  letter: {kind: jsonl, train: rows.jsonl, test: rows.jsonl, label: letter}
adapters:
  letter: {method: seq_bn, reduction_factor: 2, sparsity: 0.5, pruning: snip, pruning_examples: 8}
  other: {method: lora, r: 2}
heads:
  letter: {kind: classification, pooling: mean}
train:
  - {name: one, expression: "Drop('letter', first=1)", epochs: 2, batch_size: 4, learning_rate: 1e-2,
     trunk_cache: true, checkpoint_steps: 1}
  - {name: two, expression: "Drop(Stack('other', 'letter'), first=1)", epochs: 2, batch_size: 4, learning_rate: 1e-2,
     regime: full+adapters}
evaluate:
  expressions: {letter: letter}
report: {plots: false}
"""
TEXTS = [f"{letter} {other}" for letter in "abcd" for other in ("e", "f", "new york", "g h")]
CHAINS = {
    "never": [],
    "steps": ["step:1", "step:3", "step:6"],
    "files": ["replace:7", "fsync:9", "replaced:5"],
    "end": ["measure:1", "settle:2"],
    "over": ["settled:2"],
}
"""By name the moments at which a run is killed, one after the other, before it may end."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("killed")
    bert().save_pretrained(folder / "backbone")
    tokenizer().save_pretrained(folder / "backbone")
    rows = [{"text": text, "letter": "first" if text[0] in "ab" else "second"} for text in TEXTS]
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows), "utf-8")
    (folder / "tiny.yaml").write_text(RECIPE.replace("BACKBONE", str(folder / "backbone")), "utf-8")
    return folder


@pytest.fixture(scope="module")
def codes(place: Path) -> dict[str, list[int]]:
    command = [sys.executable, "-m", "tests.recipes.killed", str(place / "tiny.yaml"), str(place), json.dumps(CHAINS)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("name", [name for name in CHAINS if name != "never"])
def test_it_ends_with_the_same_weights(place: Path, codes: dict[str, list[int]], name: str) -> None:
    assert codes["never"] == [0]
    assert codes[name] == [9] * len(CHAINS[name]) + [0]
    whole, killed = read_manifest(place / "never"), read_manifest(place / name)
    assert whole is not None and killed is not None and killed["status"] == "complete"
    weights = [file for file in whole["sha256"] if file.endswith(".safetensors")]
    assert len(weights) >= 5
    assert {file: killed["sha256"].get(file) for file in weights} == {file: whole["sha256"][file] for file in weights}
    assert set(killed["sha256"]) == set(whole["sha256"])
    one, other = (json.loads((place / each / "metrics.json").read_text()) for each in ("never", name))
    assert [stage["losses"] for stage in one["stages"]] == [stage["losses"] for stage in other["stages"]]
    assert one["scores"] == other["scores"]
    assert not list(place.glob(f"{name}.*")) and not list(place.glob(f".{name}.*")), "nothing is left over"


class Interrupted(Exception):
    """Someone has had enough."""


class Impatient(Console):
    """A console that ends a run after its second step."""

    def training(self, name: str) -> Any:
        def advance(done: int, total: int, loss: float) -> None:
            if done == 2:
                raise Interrupted

        return nullcontext(advance)


def interrupted(place: Path, out: Path) -> None:
    with pytest.raises(Interrupted):
        run(place / "tiny.yaml", out=out, console=Impatient(quiet=True))
    assert (out.with_name(f"{out.name}.partial") / MARK).exists() and not out.exists()


def test_another_recipe_or_other_data_are_told(place: Path, tmp_path: Path) -> None:
    recipe = (place / "tiny.yaml").read_text().replace("rows.jsonl", str(tmp_path / "rows.jsonl"))
    (tmp_path / "tiny.yaml").write_text(recipe)
    (tmp_path / "rows.jsonl").write_text((place / "rows.jsonl").read_text())
    out = tmp_path / "run"
    interrupted(tmp_path, out)
    with pytest.raises(FileError) as caught:
        run(tmp_path / "tiny.yaml", ["train.0.epochs=5", "seed=4"], out, console=Console(quiet=True), resume=True)
    told = str(caught.value)
    assert "train.0.epochs was 2, and is 5" in told and "seed was 42, and is 4" in told and "without --resume" in told
    (tmp_path / "rows.jsonl").write_text((place / "rows.jsonl").read_text().replace("new york", "york"))
    with pytest.raises(FileError, match="the data of the source 'letter' are not what they were"):
        run(tmp_path / "tiny.yaml", (), out, console=Console(quiet=True), resume=True)
    with pytest.raises(FileError, match="the backbone is another one"):
        run(tmp_path / "tiny.yaml", [f"backbone.name={other(tmp_path)}"], out, console=Console(quiet=True), resume=True)


def other(folder: Path) -> Path:
    """Another backbone of the same size."""
    made = bert()
    randomize(made)
    made.save_pretrained(folder / "other")
    tokenizer().save_pretrained(folder / "other")
    return folder / "other"


def test_without_resume_a_run_begins_anew(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    interrupted(place, out)
    stream = io.StringIO()
    run(place / "tiny.yaml", out=out, console=Console(stream))
    assert "goes on" not in stream.getvalue() and [path.name for path in tmp_path.iterdir()] == ["run"]


def test_resuming_what_is_complete_and_what_is_not_there(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(place / "tiny.yaml", out=out, console=Console(quiet=True), resume=True)
    manifest = read_manifest(out)
    assert manifest is not None and set(manifest["fingerprints"]) == {"data", "backbone", "loaded"}
    stream = io.StringIO()
    assert run(place / "tiny.yaml", out=out, console=Console(stream), resume=True) == out
    assert f"{out} is complete: there is nothing left to do" in stream.getvalue()
    assert read_manifest(out) == manifest
    with pytest.raises(FileError, match=r"train\.1\.epochs was 2, and is 3"):
        run(place / "tiny.yaml", ["train.1.epochs=3"], out, console=Console(quiet=True), resume=True)


def test_several_seeds_go_on_where_they_were(place: Path, tmp_path: Path) -> None:
    out, seeds = tmp_path / "run", ["seeds=[1, 2]"]

    class SecondSeed(Impatient):
        headings = 0

        def training(self, name: str) -> Any:
            self.headings += 1
            return super().training(name) if self.headings == 3 else nullcontext(lambda done, total, loss: None)

    with pytest.raises(Interrupted):
        run(place / "tiny.yaml", seeds, out, console=SecondSeed(quiet=True))
    stream = io.StringIO()
    run(place / "tiny.yaml", seeds, out, console=Console(stream), resume=True)
    assert "seed 1\n" not in stream.getvalue() and "goes on from where it was interrupted" in stream.getvalue()
    whole = run(place / "tiny.yaml", seeds, tmp_path / "whole", console=Console(quiet=True))
    one, two = (read_manifest(folder) or {} for folder in (out, whole))
    weights = [name for name in one["sha256"] if name.endswith(".safetensors")]
    assert len(weights) >= 10 and all(one["sha256"][name] == two["sha256"][name] for name in weights)
