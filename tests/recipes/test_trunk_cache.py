"""The trunk cache in recipes and in the training loop."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch

from compose import Drop
from compose.errors import RecipeError
from compose.recipes.console import Console
from compose.recipes.runner import run
from compose.runtime.attach import attach
from compose.train.data import Example
from compose.train.fit import Settings, fit
from compose.train.rows import row_groups
from compose.train.trunk_cache import TrunkCache
from tests.heads.texts import bert, tokenizer

RECIPE = """\
recipe: 1
name: tiny
seed: 3
backbone: {name: BACKBONE}
data:
  letter: {kind: jsonl, train: rows.jsonl, test: rows.jsonl, label: letter}
adapters:
  letter: {method: seq_bn, reduction_factor: 2}
heads:
  letter: {kind: classification, pooling: mean}
train:
  - expression: EXPRESSION
    epochs: 2
    learning_rate: 1e-2
    trunk_cache: true
evaluate:
  expressions: {letter: EXPRESSION}
"""
TEXTS = [f"{letter} {other}" for letter in "abcd" for other in ("e", "f", "new york", "g h")]


def written(folder: Path, expression: str) -> Path:
    bert().save_pretrained(folder / "backbone")
    tokenizer().save_pretrained(folder / "backbone")
    rows = [{"text": text, "letter": "first" if text[0] in "ab" else "second"} for text in TEXTS]
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows), "utf-8")
    recipe = RECIPE.replace("BACKBONE", str(folder / "backbone")).replace("EXPRESSION", expression)
    (folder / "tiny.yaml").write_text(recipe, "utf-8")
    return folder / "tiny.yaml"


def test_a_recipe_with_a_cache_runs(tmp_path: Path) -> None:
    done = run(written(tmp_path, "\"Drop('letter', first=1)\""), out=tmp_path / "run", console=Console(io.StringIO()))
    metrics = json.loads((done / "metrics.json").read_text())
    assert metrics["stages"][0]["losses"][-1] < metrics["stages"][0]["losses"][0]
    assert "trunk_cache: true" in (done / "resolved.yaml").read_text()


def test_a_stage_without_a_trunk_is_said_before_training(tmp_path: Path) -> None:
    stream = io.StringIO()
    with pytest.raises(RecipeError, match="adapters act, or branches part, from the first layer on") as caught:
        run(written(tmp_path, "letter"), out=tmp_path / "run", console=Console(stream))
    line = next(n for n, text in enumerate(RECIPE.splitlines(), 1) if "trunk_cache" in text)
    assert f"tiny.yaml:{line}:" in str(caught.value) and "Drop(..., first=n)" in str(caught.value)
    assert "## train" not in stream.getvalue() and not (tmp_path / "run").exists()


def test_training_is_the_same_with_and_without(tmp_path: Path) -> None:
    results = []
    for cache in (None, TrunkCache(memory=500)):
        backbone = bert()
        for module in backbone.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        torch.manual_seed(0)
        model = attach(backbone, tokenizer())
        model.add_adapter("letter", "seq_bn", reduction_factor=2)
        model.add_head("letter", labels=["first", "second"], dropout=0.0)
        plan = model.plan(Drop("letter", first=1))
        model.train_only(plan.expression)
        examples = [Example(text, "first" if text[0] in "ab" else "second") for text in TEXTS]
        history = fit(model, plan, row_groups(model, {"letter": examples}), Settings(epochs=3), cache=cache)
        results.append((history.losses, {name: p.detach() for name, p in model.adapters.named_parameters()}))
    (losses, weights), (cached_losses, cached_weights) = results
    assert cached_losses == pytest.approx(losses, rel=1e-4)
    for name, weight in weights.items():
        torch.testing.assert_close(cached_weights[name], weight, rtol=1e-3, atol=1e-4)
