"""One run over every kind of source and of label, on a tiny backbone and made data."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from compose.cli import _exit_code
from compose.errors import RecipeError
from compose.recipes.console import Console
from compose.recipes.runner import run
from compose.recipes.schema import Jsonl
from compose.recipes.sources import read_sources
from compose.recipes.validate import read_recipe
from tests.heads.texts import bert, tokenizer

RECIPE = """\
recipe: 1
name: kinds
backbone: {name: backbone}
data:
  tone: {kind: csv, train: a.tsv, validation: 0.25, test: a.tsv, label: tone, label_map: [low, high]}
  parts: {kind: jsonl, train: a.jsonl.gz, test: a.jsonl.gz, labels: parts, sample: {train: 12}}
  size: {kind: parquet, train: a.parquet, validation: a.parquet, test: a.parquet, text: a, pair: b, score: size}
  town: {kind: conll, train: a.conll, test: a.conll, scheme: iob1}
  topic: {kind: bundled, name: messages, label: topic, validation: 0.1, sample: {train: 12, validation: 6, test: 6}}
adapters: {a: {method: seq_bn, reduction_factor: 4}}
heads:
  tone: {kind: classification, pooling: mean, labels: [low, high]}
  parts: {kind: multi_label, pooling: mean}
  size: {kind: regression, pooling: mean}
  town: {kind: tagging}
  topic: {kind: classification}
train:
  - {expression: 'Route(tone="a", parts="a", size="a", town="a", topic="a")', epochs: 1}
evaluate:
  expressions: {all: 'Parallel(tone="a", parts="a", size="a", town="a", topic="a")'}
  baselines: [head_only, tfidf]
report: {plots: false}
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    import pyarrow
    import pyarrow.parquet

    bert().save_pretrained(tmp_path / "backbone")
    tokenizer().save_pretrained(tmp_path / "backbone")
    texts = [f"{first} {second}" for first in "abcd" for second in "abcd"]
    table = ["text\ttone", *(f"{text}\t{int(text[0] in 'ab')}" for text in texts)]
    (tmp_path / "a.tsv").write_text("\n".join(table), "utf-8")
    parts = [{"text": text, "parts": sorted(set(text) & set("ab"))} for text in texts]
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, parts)).encode("utf-8")))
    sizes = [{"a": text[0], "b": text[2], "size": float(ord(text[0]) - ord(text[2]))} for text in texts]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(sizes), tmp_path / "a.parquet")
    words = ["new NN I-LOC\nyork NN I-LOC\nb NN O\n", "c NN O\n", "a NN B-LOC\n"]
    (tmp_path / "a.conll").write_text("-DOCSTART- O O\n\n" + "\n".join(words * 4), "utf-8")
    text = RECIPE.replace("{name: backbone}", f"{{name: {tmp_path / 'backbone'}}}")
    (tmp_path / "kinds.yaml").write_text(text, "utf-8")
    return tmp_path / "kinds.yaml"


def test_every_kind_of_source_is_read(place: Path) -> None:
    _, recipe = read_recipe(place)
    data = read_sources(recipe, Path(), set(recipe.data))
    counts = {name: (len(found.train), len(found.validation), len(found.test)) for name, found in data.items()}
    assert counts == {
        "tone": (12, 4, 16),
        "parts": (12, 0, 16),
        "size": (16, 16, 16),
        "town": (12, 0, 12),
        "topic": (12, 6, 6),
    }
    assert data["tone"].labels() == ["low", "high"] and data["size"].labels() == []
    assert data["town"].labels() == ["O", "B-LOC", "I-LOC"]
    assert data["size"].train[1].input == ("a", "b")


def test_data_of_the_hub_is_not_looked_at(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _exit_code(["recipe", "validate", str(place)]) == 0
    assert "not looked at" not in capsys.readouterr().out
    hub = "data.tone={kind: hub, name: nobody/nothing, label: label, test: test}"
    assert _exit_code(["recipe", "validate", str(place), "--set", hub]) == 0
    assert "not looked at, since of the hub: data.tone" in capsys.readouterr().out


def test_every_kind_of_label_is_trained_and_scored(place: Path) -> None:
    done = run(place, out=place.parent / "run", console=Console(quiet=True))
    scores = json.loads((done / "metrics.json").read_text("utf-8"))["scores"]
    main = {"tone": "accuracy", "parts": "f1_micro", "size": "pearson", "town": "f1", "topic": "accuracy"}
    for system, found in scores.items():
        assert {task: metric in found[task] for task, metric in main.items()} == dict.fromkeys(main, True), system
    again = read_recipe(done / "resolved.yaml")[1]
    assert again.data["size"].model_dump()["train"] == str(place.parent / "a.parquet")


FOLDERS = """\
recipe: 1
name: folders
backbone: minilm
data: {tone: {kind: jsonl, train: a/tone.jsonl, test: b/tone.jsonl, label: tone}}
heads: {tone: {kind: classification}}
train: [{expression: 'Parallel(tone=None)', regime: heads}]
"""


def test_paths_begin_in_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("recipes", "files/a", "files/b", "files/here"):
        (tmp_path / name).mkdir(parents=True)
    row = json.dumps({"text": "a", "tone": "calm"})
    for name in ("a/tone.jsonl", "b/tone.jsonl", "here/tone.jsonl"):
        (tmp_path / "files" / name).write_text(row, "utf-8")
    recipe = tmp_path / "recipes" / "folders.yaml"
    recipe.write_text(FOLDERS, "utf-8")
    with pytest.raises(RecipeError, match="data_folder=FOLDER"):
        read_recipe(recipe)
    monkeypatch.chdir(tmp_path / "files")
    _, read = read_recipe(recipe, ["data_folder=.", "data.tone.test=here/tone.jsonl"])
    source = read.data["tone"]
    assert isinstance(source, Jsonl) and read.data_folder is None
    assert source.train == str(tmp_path / "files/a/tone.jsonl")
    assert source.test == str(tmp_path / "files/here/tone.jsonl")  # an override's begin where the command runs
    recipe.write_text(recipe.read_text("utf-8").replace("data:", "data_folder: ../files\ndata:"), "utf-8")
    again = read_recipe(recipe)[1].data["tone"]
    assert isinstance(again, Jsonl) and again.train == str(tmp_path / "recipes/../files/a/tone.jsonl")
    assert again.test == str(tmp_path / "recipes/../files/b/tone.jsonl")
