"""Languages: adapters from texts alone, a task above one of them, and scores on the other languages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compose.errors import RecipeError
from compose.recipes.console import Console
from compose.recipes.evaluated import Evaluated
from compose.recipes.runner import run
from compose.recipes.tables import told
from compose.recipes.validate import read_recipe
from tests.heads.texts import bert, tokenizer

RECIPE = """\
recipe: 1
name: languages
seed: 3
backbone: BACKBONE
data:
  north: {kind: jsonl, train: north.jsonl, test: north.jsonl, text: text}
  south: {kind: jsonl, train: south.jsonl, test: south.jsonl, text: text, validation: 0.25}
  northern: {kind: jsonl, train: north.jsonl, test: north.jsonl, label: label}
  southern: {kind: jsonl, train: south.jsonl, test: south.jsonl, label: label}
adapters:
  north: {method: seq_bn_inv, reduction_factor: 4}
  south: {method: seq_bn_inv, reduction_factor: 4}
  task: {method: seq_bn, reduction_factor: 4}
  alone: {method: seq_bn, reduction_factor: 4}
heads:
  north: {kind: masked_lm}
  south: {kind: masked_lm, mask_probability: 0.3}
  task: {kind: classification}
train:
  - {expression: north, epochs: 1, learning_rate: 1e-2}
  - {expression: south, epochs: 1, learning_rate: 1e-2}
  - {expression: 'Stack("north", "task")', adapters: [task], data: {task: northern}, epochs: 1}
  - {expression: Parallel(task="alone"), data: {task: northern}, epochs: 1}
evaluate:
  expressions:
    alone: Parallel(task="alone")
    swapped: {northern: 'Stack("north", "task")', southern: 'Stack("south", "task")'}
    masked: Parallel("north", "south")
  data: {task: [northern, southern]}
  baselines: []
report: {plots: false}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    bert().save_pretrained(tmp_path / "backbone")
    tokenizer(mask_token="!").save_pretrained(tmp_path / "backbone")
    for name, letters in (("north", "abcd"), ("south", "wxyz")):
        texts = [f"{letter} new york {other} love" for letter in letters for other in "ef"]
        rows = [{"text": text, "label": "first" if text[0] in letters[:2] else "second"} for text in texts]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    path = tmp_path / "languages.yaml"
    path.write_text(RECIPE.replace("BACKBONE", str(tmp_path / "backbone")), "utf-8")
    return path


def test_a_task_is_scored_on_languages_that_it_was_not_trained_in(recipe: Path) -> None:
    done = run(recipe, out=recipe.parent / "run", console=Console(quiet=True))
    found = json.loads((done / "metrics.json").read_text("utf-8"))
    assert (
        list(found["scores"]["swapped"]) == list(found["scores"]["alone"]) == ["task on northern", "task on southern"]
    )
    masked = found["scores"]["masked"]
    assert list(masked) == ["north", "south"] and set(masked["north"]) == {"accuracy", "perplexity", "cross_entropy"}
    assert found["main"] == dict.fromkeys(["task on northern", "task on southern", "north", "south"], "accuracy")
    assert set(found["stages"][1]["validation"][0]) == {"south"}
    assert list(found["systems"]) == ["alone", "swapped (northern)", "swapped (southern)", "masked"]
    parts = {(part["what"], part["name"]): part["parameters"] for part in found["parts"]}
    task = parts["adapter", "task"] + parts["head", "task"]
    assert found["stages"][2]["trained_parameters"] == task
    assert parts["head", "north"] < 64 * 16  # the map to the vocabulary is the backbone's
    report = (done / "report.md").read_text("utf-8")
    assert "task on southern" in report and "perplexity" in report
    resolved = read_recipe(done / "resolved.yaml")[1]
    assert Evaluated(resolved).rows() == Evaluated(read_recipe(recipe)[1]).rows()


WRONG = [
    ("adapters: [task], data: {task: northern}", "adapters: [task], data: {task: north}", "north has text alone"),
    ("{expression: south,", "{expression: south, data: {south: southern},", "text alone, but data.southern has"),
    ("{expression: north,", "{expression: north, trunk_cache: true,", "cannot serve the masked_lm head 'north'"),
    ("adapters: [task]", "adapters: [tusk]", "the expression has no adapter 'tusk'"),
    ("adapters: [task]", "adapters: [task], regime: heads", "adapters has no meaning with regime: heads"),
    ("baselines: []", "baselines: [tfidf]", "no baseline 'tfidf' for the masked_lm head 'north'"),
    ("mask_probability: 0.3", "mask_probability: 1.5", "mask_probability=1.5 is not legal"),
    ("southern: 'Stack", "western: 'Stack", "there is no source 'western'"),
    ("[northern, southern]", "[northern, northern]", "names a source twice"),
    ("[northern, southern]", "[]", "must not be empty"),
    ("masked: Parallel(\"north\", \"south\")", "masked: 7", "an expression, or one for each source"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "what"), WRONG, ids=[wrong[2] for wrong in WRONG])
def test_what_cannot_be_is_told(recipe: Path, old: str, new: str, what: str) -> None:
    text = recipe.read_text("utf-8")
    assert text.count(old) == 1
    recipe.write_text(text.replace(old, new), "utf-8")
    with pytest.raises(RecipeError) as caught:
        read_recipe(recipe)
    assert what in str(caught.value)


def test_one_source_is_called_as_its_task(recipe: Path) -> None:
    overrides = ["evaluate.expressions={alone: alone}", "evaluate.data={alone: southern}", "train=[]"]
    overrides.append("heads={alone: {kind: classification}}")
    evaluated = Evaluated(read_recipe(recipe, overrides)[1])
    assert evaluated.rows() == {"alone": ("alone", "southern")}


def test_tokens_are_told_in_words() -> None:
    best = [{"token": "york", "id": 5, "probability": 0.625}, {"token": "a", "id": 4, "probability": 0.125}]
    assert told({"masked": [best, best[::-1]]}) == "york (62.5), a (12.5)"
    assert told({"masked": []}) == "none" and told({"next": best}) == "york (62.5), a (12.5)"
