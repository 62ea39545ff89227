"""Smoke runs: what is put in the place of backbone and data, and that results say so."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any, get_args

import pytest

from compose.errors import BackboneError, RecipeError
from compose.recipes.console import Console
from compose.recipes.loader import load_text
from compose.recipes.members import members
from compose.recipes.report.runs import read_runs
from compose.recipes.report.write import report
from compose.recipes.runner import run
from compose.recipes.schema import Jsonl, Recipe
from compose.recipes.smoke import NOTE, Smoke
from compose.recipes.smoke.backbone import architecture_of, made_backbone
from compose.recipes.smoke.data import MADE_NAMES
from compose.recipes.smoke.layers import layers_asked
from compose.recipes.smoke.parts import KINDS
from compose.recipes.sources import read_sources
from compose.recipes.validate import validate
from compose.runtime.attach import load
from compose.train.data import Dataset, Target

HUB = """\
recipe: 1
name: hub
seeds: [4, 5]
backbone: distilbert/distilbert-base-uncased
data:
  mood:
    kind: hub
    name: owner/moods
    train: a
    validation: b
    test: c
    label: mood
    label_map: {0: bad, 1: good, "-1": null}
adapters:
  mood: {method: compacter, leave_out: [4]}
heads:
  mood: {kind: classification}
train:
  - {expression: mood, epochs: 7, examples: 500, checkpoint_steps: 3}
evaluate:
  expressions: {mood: mood}
"""


def smoked(text: str, folder: Path) -> Recipe:
    return validate(load_text(text, "r.yaml"), prepare=Smoke(folder / "run"))


def sources(data: str, folder: Path, heads: str = "{}") -> dict[str, Dataset]:
    """The made data of sources that are nowhere."""
    text = f"recipe: 1\nname: data\nbackbone: minilm\ndata:\n{data}\nheads: {heads}\n"
    recipe = smoked(text, folder)
    return read_sources(recipe, Path(), set(recipe.data))


def test_a_recipe_is_changed_where_it_has_to_be_and_nowhere_else(tmp_path: Path) -> None:
    recipe = smoked(HUB, tmp_path)
    (stage,) = recipe.train
    assert (stage.epochs, stage.max_steps, stage.examples, stage.checkpoint_steps) == (1, 2, None, None)
    assert recipe.name == "hub-smoke" and (recipe.seed, recipe.seeds) == (4, ()) and not recipe.report.plots
    assert recipe.adapters["mood"].options == {"leave_out": [4]} and stage.expression == "mood"
    source = recipe.data["mood"]
    assert isinstance(source, Jsonl) and source.label == "mood" and source.label_map
    made = Path(source.train)
    assert made.parent == (tmp_path / "run.made" / "data").absolute() and made.name.startswith("moods-a-")
    before = {path: path.read_bytes() for path in (tmp_path / "run.made").rglob("*") if path.is_file()}
    assert smoked(HUB, tmp_path) == recipe
    assert before == {path: path.read_bytes() for path in (tmp_path / "run.made").rglob("*") if path.is_file()}


def test_a_run_says_that_nothing_of_it_is_true(tmp_path: Path) -> None:
    (tmp_path / "hub.yaml").write_text(HUB, "utf-8")
    console, out = io.StringIO(), tmp_path / "run"
    assert run(tmp_path / "hub.yaml", out=out, console=Console(console), smoke=True) == out
    assert console.getvalue().splitlines()[:2] == ["hub-smoke", NOTE]
    facts = json.loads((out / "run.json").read_text())
    assert facts["smoke"] == NOTE and facts["recipe"] == "hub-smoke"
    for page in (out / "report.md", report([out], tmp_path / "again")):
        assert f"{NOTE.capitalize()}." in page.read_text("utf-8")
    assert "compose run RECIPE --smoke" in (out / "report.md").read_text("utf-8")
    assert read_runs([out])[0].facts["smoke"] == NOTE
    again = io.StringIO()
    run(tmp_path / "hub.yaml", out=out, console=Console(again), smoke=True, resume=True)
    assert "nothing left to do" in again.getvalue()


def test_each_value_of_a_sweep_is_tried(tmp_path: Path) -> None:
    swept = "sweep:\n  train.0.epochs: [1, 2, 3]\n  seed: [1, 2]\ntrain:\n"
    document = load_text(HUB.replace("seeds: [4, 5]\n", "").replace("train:\n", swept, 1), "r.yaml")
    every = members(document, {"train.0.epochs": (1, 2, 3), "seed": (1, 2)})
    some = Smoke(tmp_path / "run").some(every)
    assert [tuple(member.values.values()) for member in some] == [(1, 1), (2, 2), (3, 1)]


@pytest.mark.parametrize(
    ("name", "architecture"),
    [
        ("distilbert-base-uncased", "distilbert"),
        ("FacebookAI/roberta-base", "roberta"),
        ("google-bert/bert-base-cased", "bert"),
        ("openai-community/gpt2", "gpt2"),
        ("FacebookAI/xlm-roberta-base", "xlm-roberta"),
        ("google/vit-base-patch16-224-in21k", "vit"),
        ("google-t5/t5-small", "t5"),
        ("meta-llama/Llama-2-7b-hf", "llama"),
        ("sentence-transformers/all-MiniLM-L6-v2", "minilm"),
        ("distilroberta-base", "roberta"),
    ],
)
def test_a_name_says_the_architecture(name: str, architecture: str) -> None:
    assert architecture_of(name) == {"minilm": "bert"}.get(architecture, architecture)


def test_what_no_name_says_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"r.yaml:4:11.*'someone/secret'[\s\S]*--set backbone=NAME"):
        smoked(HUB.replace("distilbert/distilbert-base-uncased", "someone/secret"), tmp_path)
    with pytest.raises(BackboneError, match=r"'mamba'[\s\S]*bert, distilbert, roberta"):
        made_backbone("state-spaces/mamba-130m-hf", 3, tmp_path)


@pytest.mark.parametrize("name", ["bert", "distilbert", "roberta", "xlm-roberta", "gpt2", "llama", "t5"])
def test_every_family_reads_texts(name: str, tmp_path: Path) -> None:
    model = load(str(made_backbone(f"somebody/{name}-base", 3, tmp_path)))
    assert model.spec.architecture == name and len(model.spec.layers) == (6 if name == "t5" else 3)
    model.add_head("mood", "classification", labels=["bad", "good"])
    answers = model.plan("Parallel(mood=None)").predict(["the old house, and nobody there", ("red", "green")])
    assert {answer["mood"]["label"] for answer in answers} <= {"bad", "good"}


def test_a_backbone_has_the_layers_that_a_recipe_speaks_of(tmp_path: Path) -> None:
    assert layers_asked(smoked(HUB, tmp_path)) == 6
    dropped = HUB.replace("{mood: mood}", """{mood: 'Drop("mood", first=(0, 8))'}""")
    assert layers_asked(smoked(dropped, tmp_path)) == 9


def test_made_rows_are_what_the_columns_and_heads_need(tmp_path: Path) -> None:
    data = """\
  pairs: {kind: jsonl, train: no/a.jsonl.gz, test: no/b.jsonl.gz, text: x, pair: y, score: z}
  several: {kind: csv, train: no/a.tsv, text: x, labels: y, separator: ";"}
  plain: {kind: parquet, train: no/a.parquet, validation: 0.25, text: x}
  spans: {kind: jsonl, train: no/s.jsonl, entities: found}
  words: {kind: conll, train: no/c.txt, tokens: 0, tags: -1, scheme: iob1}
  parts: {kind: conll, train: no/d.txt, header: [form, lemma, upos], tokens: form, tags: upos, scheme: bioes}
  named: {kind: csv, train: no/e.csv, header: [label, text], label: label, quotes: false}
  bundled: {kind: bundled, name: messages, label: tone}"""
    found = sources(data, tmp_path, "{named: {kind: classification, labels: [yes, no, 'perhaps so']}}")
    assert isinstance(found["pairs"].train[0].input, tuple) and isinstance(found["pairs"].test[0].target, float)
    assert found["several"].labels() == ["first", "second", "third"]
    assert (len(found["plain"].train), len(found["plain"].validation)) == (9, 3)
    assert found["spans"].labels() == ["O", "B-person", "I-person", "B-place", "I-place"]
    assert found["words"].labels() == ["O", "B-person", "B-place", "I-person"]
    assert set(found["parts"].labels()) == {"O", "B-person", "I-person", "B-place"}
    assert found["named"].labels() == ["no", "perhaps so", "yes"]
    assert found["bundled"].labels() == ["friendly", "frustrated", "neutral"]  # what its files have


def test_there_is_something_for_every_target() -> None:
    assert set(KINDS) == set(get_args(Target)) == {*MADE_NAMES, "tags"}


def test_questions_are_answered(tmp_path: Path) -> None:
    text = HUB.replace("label: mood\n", "text: question\n    pair: context\n    answers: answers\n")
    text = text.replace('    label_map: {0: bad, 1: good, "-1": null}\n', "").replace(
        "classification", "question_answering"
    )
    (tmp_path / "squad.yaml").write_text(text, "utf-8")
    done = run(tmp_path / "squad.yaml", out=tmp_path / "run", console=Console(quiet=True), smoke=True)
    assert set(json.loads((done / "metrics.json").read_text())["scores"]["mood"]["mood"]) == {"f1", "exact_match"}


def test_sources_of_one_file_read_one_file(tmp_path: Path) -> None:
    data = """\
  tone: {kind: jsonl, train: no/mail.jsonl, label: tone}
  topic: {kind: jsonl, train: no/mail.jsonl, label: topic, label_map: [a, b, c, d, e, f, g, h, i, j, k, l, m]}"""
    found = sources(data, tmp_path)
    texts: list[Any] = [[row.input for row in found[name].train] for name in ("tone", "topic")]
    assert texts[0] == texts[1] and len(texts[0]) == 13 and len(set(texts[0])) == 13


def test_what_is_loaded_is_made(tmp_path: Path) -> None:
    text = HUB.replace("{method: compacter, leave_out: [4]}", "{load: no/adapter}")
    text = text.replace("{kind: classification}", "{load: no/head}")
    recipe = smoked(text, tmp_path)
    assert (recipe.adapters["mood"].method, recipe.heads["mood"].kind) == ("seq_bn", "classification")
    assert recipe.adapters["mood"].load is None
