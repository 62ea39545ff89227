"""Kinds of fusion in recipes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compose.methods.fusions import FUSION_PRESETS, make_fusion_config
from compose.recipes.runner import run
from compose.runtime.attach import load_plan
from tests.heads.texts import bert, tokenizer
from tests.recipes.made import rows, write_experiment
from tests.recipes.small import changed, error_of, read
from tests.recipes.test_runner import RECIPE

DECLARED = 'topic: {expression: \'Fuse("topic", "entities")\'}'


@pytest.mark.parametrize("kind", FUSION_PRESETS)
def test_every_kind_can_be_declared(kind: str) -> None:
    recipe = read(changed(DECLARED, DECLARED.replace("}", f", kind: {kind}}}")))
    assert recipe.fusions["topic"].kind == kind


def test_options_are_those_of_the_kind() -> None:
    found = read(changed(DECLARED, DECLARED.replace("}", ", kind: scalearn, shared: true}")))
    assert make_fusion_config("scalearn", **found.fusions["topic"].options) == make_fusion_config("scalearn++")
    message = error_of(changed(DECLARED, DECLARED.replace("}", ", kind: scalearn, temperature: true}")))
    assert "r.yaml:14:68" in message and "there is no option 'temperature' of 'scalearn'" in message


def test_a_run_with_scales(tmp_path: Path) -> None:
    bert().save_pretrained(tmp_path / "backbone")
    tokenizer().save_pretrained(tmp_path / "backbone")
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows()), "utf-8")
    recipe = RECIPE.replace("BACKBONE", str(tmp_path / "backbone"))
    recipe = "\n".join(line for line in recipe.splitlines() if "baselines" not in line and "drop_curve" not in line)
    recipe = recipe.replace('"town")\'}', '"town")\', kind: scalearn_uniform++}')
    assert "kind: scalearn_uniform++" in recipe
    (tmp_path / "tiny.yaml").write_text(recipe[: recipe.index("predict:")], "utf-8")
    run(tmp_path / "tiny.yaml", out=tmp_path / "run")
    found = json.loads((tmp_path / "run" / "metrics.json").read_text())["fusion_attention"]["length"]
    # both children have scales everywhere; those at a site are the same in all layers, and near their start of 2/2
    assert all(list(row["weights"]) == ["letter", "town"] for row in found["rows"])
    by_site = {row["site"]: row["weights"] for row in found["rows"]}
    assert all(row["weights"] == pytest.approx(by_site[row["site"]]) for row in found["rows"])
    assert all(0.9 < weight < 1.1 for weights in by_site.values() for weight in weights.values())
    again = load_plan(tmp_path / "run" / "plan")
    assert again.model.fusions["length"].config.method == "scalearn"


CURVE = """\
  fusion_curve: {expression: 'Parallel(Fuse("letter", "town", name="letter"), "town")', keep: [2, 1]}
"""


def test_a_curve_of_pruned_fusions(tmp_path: Path) -> None:
    path = write_experiment(tmp_path)
    lines = [line for line in path.read_text("utf-8").splitlines(True) if "drop_curve" not in line]
    path.write_text("".join(lines).replace("evaluate:\n", "evaluate:\n" + CURVE), "utf-8")
    done = run(path, ["train.0.epochs=1", "report.plots=false"], out=tmp_path / "run")
    metrics = json.loads((done / "metrics.json").read_text())
    whole, pruned = metrics["fusion_curve"]
    assert (whole["keep"], whole["kept"], pruned["keep"]) == (2, {}, 1)
    (kept,) = pruned["kept"].values()
    assert len(kept) == 1 and kept[0] in ("letter", "town")
    assert pruned["flops"] < whole["flops"] and set(pruned["scores"]) == {"letter", "town"}
    assert {part["name"] for part in metrics["parts"] if part["what"] == "fusion"} == {"letter"}
    assert "| children kept |" in (done / "report.md").read_text("utf-8")


def test_a_curve_of_fusions_needs_one() -> None:
    text = changed("evaluate:\n", "evaluate:\n  fusion_curve: {expression: topic, keep: [1]}\n")
    assert "the expression has no Fuse to prune" in error_of(text)
