"""ReFT in recipes: options under `adapters`, the trunk cache below the first layer that it reaches."""

from __future__ import annotations

import io
import json
from pathlib import Path

import torch

from compose.recipes.console import Console
from compose.recipes.runner import run
from compose.runtime.attach import load_plan
from tests.heads.texts import bert, tokenizer
from tests.recipes.small import changed, error_of, read

RECIPE = """\
recipe: 1
name: tiny
seed: 3
backbone: {name: BACKBONE}
data:
  letter: {kind: jsonl, train: rows.jsonl, test: rows.jsonl, label: letter}
adapters:
  letter: {method: loreft, layers: [1], r: 2, prefix_positions: 2, suffix_positions: 1, dropout: 0.0}
heads:
  letter: {kind: classification, pooling: mean}
train:
  - {expression: letter, epochs: 3, learning_rate: 1e-2, batch_size: 8, trunk_cache: true}
evaluate:
  expressions: {alone: letter}
predict:
  expression: letter
  texts: [a new york, c]
"""


def test_a_recipe_runs_and_what_it_saves_loads(tmp_path: Path) -> None:
    bert().save_pretrained(tmp_path / "backbone")
    tokenizer().save_pretrained(tmp_path / "backbone")
    texts = [f"{letter} {middle}{end}" for letter in "abcd" for middle in ("new york", "d e") for end in ("", " f")]
    rows = [json.dumps({"text": text, "letter": text[0]}) for text in texts]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows), "utf-8")
    (tmp_path / "tiny.yaml").write_text(RECIPE.replace("BACKBONE", str(tmp_path / "backbone")), "utf-8")
    run(tmp_path / "tiny.yaml", out=tmp_path / "run", console=Console(io.StringIO()))
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert 0 <= metrics["scores"]["alone"]["letter"]["accuracy"] <= 1
    plan = load_plan(tmp_path / "run" / "plan")
    assert plan.trunk == 1
    matrix = plan.model.adapters["letter"].part(1, "layer").get_submodule("units.prefix.projection").matrix()
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(2))
    assert set(plan.predict(["a new york"])[0]) == {"letter"}


def test_options_are_checked() -> None:
    lora = "{method: lora, r: 4}"
    assert read(changed(lora, "{method: direft, layers: all, r: 4}")).adapters["entities"].method == "direft"
    assert "suffix_positions must be" in error_of(changed(lora, "{method: loreft, suffix_positions: some}"))
