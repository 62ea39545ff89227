"""Layer aggregation in recipes, on the command line, and in the training loop."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch

from compose.cli import main
from compose.recipes.console import Console
from compose.recipes.runner import run
from compose.runtime.attach import attach, load_plan
from compose.train.data import Example
from compose.train.evaluate import evaluate
from compose.train.fit import Settings, fit
from compose.train.rows import row_groups
from compose.train.trunk_cache import TrunkCache
from tests.heads.texts import bert, tokenizer
from tests.recipes.small import changed, error_of, read

RECIPE = """\
recipe: 1
name: tiny
description: Towns and letters from the states of all layers.
seed: 3
backbone: {name: BACKBONE}
data:
  letter: {kind: jsonl, train: rows.jsonl, test: rows.jsonl, label: letter}
  town: {kind: jsonl, train: rows.jsonl, test: rows.jsonl, entities: towns}
adapters:
  letter: {method: layer_aggregation, tailor: false}
  town: {method: layer_aggregation, dropout: 0.0}
heads:
  letter: {kind: classification, pooling: mean}
  town: {kind: tagging}
train:
  - {expression: 'Parallel("letter", "town")', epochs: 2, learning_rate: 1e-2, batch_size: 8}
evaluate:
  expressions: {both: 'Parallel("letter", "town")'}
  drop_curve: {expression: town, first: [0, 1]}
predict:
  expression: Parallel("letter", "town")
  texts: [a new york, c]
"""
TEXTS = [f"{letter} {middle}{end}" for letter in "abcd" for middle in ("new york", "d e") for end in ("", " f")]


def test_a_recipe_runs_and_what_it_saves_loads(tmp_path: Path) -> None:
    bert().save_pretrained(tmp_path / "backbone")
    tokenizer().save_pretrained(tmp_path / "backbone")
    rows = [{"text": text, "letter": text[0], "towns": towns(text)} for text in TEXTS]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows), "utf-8")
    (tmp_path / "tiny.yaml").write_text(RECIPE.replace("BACKBONE", str(tmp_path / "backbone")), "utf-8")
    run(tmp_path / "tiny.yaml", out=tmp_path / "run", console=Console(io.StringIO()))
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert set(metrics["scores"]["both"]) == {"letter", "town"}
    curve = [point["flops"] for point in metrics["drop_curve"]]
    assert curve[0] == curve[1]  # it is no layer's, so that dropping layers changes nothing
    plan = load_plan(tmp_path / "run" / "plan")
    assert {name: adapter.config.method for name, adapter in plan.model.adapters.items()} == dict.fromkeys(
        ("letter", "town"), "layer_aggregation"
    )
    assert set(plan.predict(["a new york"])[0]) == {"letter", "town"}


def towns(text: str) -> list[dict[str, object]]:
    start = text.find("new")
    return [{"start": start, "end": start + 8, "type": "town"}] if start >= 0 else []


def test_a_recipes_options_are_checked() -> None:
    old = "entities: {method: lora, r: 4}"
    good = changed(old, "entities: {method: layer_aggregation, tailor: false}")
    fusion = 'fusions:\n  topic: {expression: \'Fuse("topic", "entities")\'}\n'
    assert read(good.replace(fusion, "")).adapters["entities"].options == {"tailor": False}
    assert "there is no option 'tailer'" in error_of(
        changed(old, "entities: {method: layer_aggregation, tailer: false}")
    )


def test_the_command_line_explains_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bert().save_pretrained(tmp_path)
    words = ["explain", 'Parallel("pos", "ner")', "--backbone", str(tmp_path), "--adapter", "pos=layer_aggregation"]
    with pytest.raises(SystemExit) as stop:
        main((*words, "--adapter", "ner=layer_aggregation,tailor=false"))
    assert stop.value.code == 0
    assert "states: pos | ner" in capsys.readouterr().out


@pytest.mark.parametrize("cached", [False, True])
def test_the_loop_learns_towns(cached: bool) -> None:
    model = attach(bert(), tokenizer())
    torch.manual_seed(0)
    model.add_adapter("town", "layer_aggregation", dropout=0.0)
    model.add_head("town", "tagging", labels=["O", "B-town", "I-town"])
    found = (text.find("new") for text in TEXTS)
    examples = [
        Example(text, ((start, start + 8, "town"),) if start >= 0 else ())
        for text, start in zip(TEXTS, found, strict=True)
    ]
    model.train_only("town")
    plan, cache = model.plan("town"), TrunkCache() if cached else None
    before = {name: p.detach().clone() for name, p in model.backbone.named_parameters()}
    settings = Settings(epochs=12, batch_size=8, learning_rate=1e-2)
    history = fit(model, plan, row_groups(model, {"town": examples}), settings, cache=cache)
    assert history.losses[-1] < 0.3 * history.losses[0]
    assert evaluate(plan, {"town": examples})["town"]["f1"] > 0.9
    if cache is not None:
        assert (cache.computed, cache.found) == (len(TEXTS), 12 * len(TEXTS))
    assert all(torch.equal(p, before[name]) for name, p in model.backbone.named_parameters())
