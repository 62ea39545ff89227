"""Recipes that use what was trained before: adapters, heads and fusions from folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from compose import io as files
from compose.errors import FileError, RecipeError
from compose.recipes.begun import begun_with, check_same
from compose.recipes.console import Console
from compose.recipes.experiment import Experiment, build
from compose.recipes.runner import run
from compose.recipes.validate import read_recipe
from compose.runtime.model import Model
from tests.heads.texts import bert, tokenizer
from tests.recipes.made import EXPERIMENT, write_experiment

TOWNS = "letter: {kind: jsonl, train: rows.jsonl, test: rows.jsonl, entities: towns}"
ALLOWED = "heads/letter, allow_backbone: true}"

FIRST = EXPERIMENT.replace("name: made\n", "name: first\n").replace("  letter: {expression", "  both: {expression")
FIRST = FIRST[: FIRST.index("evaluate:")] + 'evaluate: {expressions: {composed: \'Parallel("letter", "town")\'}}\n'

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
    return files.load_adapter(folder).tensors


def town(model: Model) -> dict[str, torch.Tensor]:
    return model.adapters["town"].tensors()


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


def changed(old: str, new: str) -> str:
    assert SECOND.count(old) == 1, old
    return SECOND.replace(old, new)


# what is replaced, by what, where the error is, and what it says
WRONG = [
    ("load: first/adapters/letter", "load: first/adapters/leter", "9:13", "adapters.a: no such folder"),
    ("load: first/adapters/letter", "load: first/adapters/leter", "9:13", "legal: 'PLACE/first/adapters/letter'"),
    ("load: first/adapters/letter", "load: first", "9:13", "legal: 'PLACE/first/adapters/"),
    ("load: first/adapters/letter", "load: first/heads/letter", "9:13", "holds no adapter"),
    ("load: first/adapters/letter", "load: first/plan", "9:13", "it holds a composition (native format)"),
    ("load: first/adapters/letter", "load: backbone", "9:13", "holds no adapter, fusion, head or composition"),
    ("load: first/adapters/letter", "load: damaged", "9:13", "there is no method or preset 'wonder'"),
    ("load: first/adapters/letter", "load: halved", "9:13", "no weights beside the manifest"),
    ("load: first/adapters/letter", "load: 5", "9:13", "must be text, not 5"),
    ("load: first/adapters/letter", "path: first/adapters/letter", "9:7", "'load' is what it is called here"),
    ("load: first/adapters/letter", "r: 4", "9:3", "'method' is missing in adapters.a"),
    ("a: {load:", "a: {method: lora, load:", "9:7", "'method' cannot be said of it"),
    ("a: {load:", "a: {reduction_factor: 4, load:", "9:7", "'reduction_factor' cannot be said of it"),
    ("a: {load:", "a: {sparsity: 0.5, load:", "9:7", "'sparsity' cannot be said of it"),
    ("letter: {load:", "letter: {labels: [a, b], load:", "13:12", "'labels' cannot be said of it"),
    ("load: first/heads/letter", "load: first/heads/town", "19:24", "learns from entities or tags, but data.letter"),
    ("load: first/heads/letter", "pooling: mean", "13:3", "'kind' is missing in heads.letter"),
    ("length: {expression: 'Fuse(\"a\", \"b\")'}", "length: {load: first/fusions/bot}", "15:18", "fusions/both'"),
    ("length: {expression: 'Fuse(\"a\", \"b\")'}", "length: {kind: static}", "15:3", "'expression' is missing"),
    ("{expression: 'Fuse(\"a\", \"b\")'}", "{load: first/fusions/both, kind: static}", "15:38", "'kind' cannot be"),
    ("{kind: classification, pooling", "{kind: classification, allow_backbone: true, pooling", "12:34", "without load"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "where", "what"), WRONG, ids=[f"{w[3]} {w[1]}"[:60] for w in WRONG])
def test_what_cannot_be_loaded_is_said_before_it_is_run(place: Path, old: str, new: str, where: str, what: str) -> None:
    shutil.copytree(place / "first/adapters/letter", place / "halved", dirs_exist_ok=True)
    (place / "halved/adapter.safetensors").unlink()
    (place / "damaged").mkdir(exist_ok=True)
    manifest = json.loads((place / "halved/adapter.json").read_text())
    (place / "damaged/adapter.json").write_text(json.dumps({**manifest, "method": "wonder"}))
    path = place / "wrong.yaml"
    path.write_text(changed(old, new).replace("BACKBONE", str(place / "backbone")), "utf-8")
    with pytest.raises(RecipeError) as caught:
        read_recipe(path)
    found = str(caught.value)
    assert what.replace("PLACE", str(place)) in found
    assert any(line.startswith(f"{path}:{where}:") for line in found.splitlines()), found


def test_an_override_begins_where_the_command_runs(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "elsewhere").mkdir(exist_ok=True)
    monkeypatch.chdir(place / "elsewhere")
    _, recipe = read_recipe(place / "second.yaml", ["adapters.a.load=../first/adapters/town"])
    assert Path(recipe.adapters["a"].load or "").resolve() == (place / "first/adapters/town").resolve()
    with pytest.raises(RecipeError, match=r"--set adapters.a=\{load: town\}: adapters.a: no such folder"):
        read_recipe(place / "second.yaml", ["adapters.a={load: town}"])


def test_what_is_loaded_takes_the_place_of_what_is_made(place: Path) -> None:
    own = "include: first.yaml\nadapters: {letter: {load: first/adapters/letter}, town: {load: first/adapters/town}}\n"
    own += "heads: {letter: {load: first/heads/letter}}\nfusions: {both: {load: first/fusions/both}}\n"
    (place / "over.yaml").write_text(own, "utf-8")
    _, recipe = read_recipe(place / "over.yaml")
    assert all(part.options == {} and part.load for part in (*recipe.adapters.values(), recipe.heads["letter"]))
    assert recipe.fusions["both"].expression is None and recipe.heads["town"].load is None
    back = "include: over.yaml\nadapters: {letter: {method: lora, r: 2}}\nheads: {letter: {load: first/heads/letter}}\n"
    (place / "back.yaml").write_text(back, "utf-8")
    _, recipe = read_recipe(place / "back.yaml")
    assert recipe.adapters["letter"].load is None and recipe.adapters["letter"].options == {"r": 2}


def opened(path: Path) -> Experiment:
    document, recipe = read_recipe(path)
    return build(recipe, document)


def test_fusions_and_other_formats_are_loaded(place: Path) -> None:
    model = opened(place / "first.yaml").model
    model.save_adapter("town", place / "hub/town", format="adapterhub")
    model.save_head("town", place / "hub/head", format="adapterhub")
    text = changed("load: first/adapters/town", "load: hub/town").replace("first/heads/letter", "hub/head")
    text = text.replace("letter: {kind: jsonl, train: rows.jsonl, test: rows.jsonl, label: letter}", TOWNS)
    text = text.replace('{expression: \'Fuse("a", "b")\'}', "{load: first/fusions/both}")
    path = place / "third.yaml"
    path.write_text(text.replace("BACKBONE", str(place / "backbone")), "utf-8")
    found = opened(path).model
    assert all(torch.equal(found.adapters["b"].tensors()[key], value) for key, value in town(model).items())
    assert found.heads["letter"].config == model.heads["town"].config
    saved = files.load_fusion(place / "first/fusions/both").tensors
    assert all(torch.equal(found.fusions["length"].tensors()[key], value) for key, value in saved.items())
    path.write_text(path.read_text("utf-8").replace("entities: towns", "label: letter"), "utf-8")
    with pytest.raises(RecipeError, match=r"the tagging head 'letter' learns from entities or tags, but data.letter"):
        opened(path)


def test_another_backbone_is_refused_at_the_line(place: Path) -> None:
    backbone = bert()
    with torch.no_grad():
        backbone.embeddings.word_embeddings.weight.normal_()
    backbone.save_pretrained(place / "other")
    tokenizer().save_pretrained(place / "other")
    path = place / "strange.yaml"
    path.write_text(SECOND.replace("BACKBONE", str(place / "other")), "utf-8")
    with pytest.raises(RecipeError) as caught:
        opened(path)
    assert f"{path}:9:13: {place}/first/adapters/letter" in str(caught.value)
    assert "allow_backbone: true, if it is meant" in str(caught.value)
    allowed = SECOND.replace("adapters/letter}", "adapters/letter, allow_backbone: true}")
    allowed = allowed.replace("/town}", "/town, allow_backbone: true}").replace("heads/letter}", ALLOWED)
    path.write_text(allowed.replace("BACKBONE", str(place / "other")), "utf-8")
    assert set(opened(path).model.adapters) == {"a", "b"}


def test_other_weights_are_another_run(place: Path) -> None:
    experiment = opened(place / "second.yaml")
    then = begun_with(experiment, experiment.recipe)
    check_same(then, then, place)
    with torch.no_grad():
        next(iter(experiment.model.adapters["a"].parameters())).add_(1)
    with pytest.raises(FileError, match=r"what adapters.a loads is not what it was"):
        check_same(then, begun_with(experiment, experiment.recipe), place)
