"""A whole run, on a tiny backbone of its own and made data."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch

from compose.errors import FileError, RecipeError
from compose.recipes.console import Console
from compose.recipes.runner import run
from compose.recipes.validate import read_recipe
from compose.runtime.attach import load_plan
from tests.heads.texts import bert, tokenizer
from tests.recipes.made import rows

RECIPE = """\
recipe: 1
name: tiny
description: Letters and towns.
seed: 3
backbone: {name: BACKBONE}
data:
  letter: {kind: jsonl, train: rows.jsonl, test: rows.jsonl, label: letter}
  town: {kind: jsonl, train: rows.jsonl, test: rows.jsonl, entities: towns}
  length: {kind: jsonl, train: rows.jsonl, test: rows.jsonl, label: length, sample: {train: 12}}
adapters:
  letter: {method: seq_bn, reduction_factor: 2}
  town: {method: double_seq_bn, reduction_factor: 4}
heads:
  letter: {kind: classification, pooling: mean}
  town: {kind: tagging}
  length: {kind: classification, labels: [long, short]}
fusions:
  length: {expression: 'Fuse("letter", "town")'}
train:
  - {name: both, expression: 'Parallel("letter", "town")', epochs: 2, learning_rate: 1e-2, batch_size: 8}
  - {expression: 'Fuse("letter", "town", name="length")', regime: fusion, epochs: 1, examples: 8}
evaluate:
  expressions: {composed: 'Parallel("letter", "town", Fuse("letter", "town", name="length"))'}
  baselines: [head_only, tfidf]
  drop_curve: {expression: 'Parallel("letter", Fuse("letter", "town", name="length"))', first: [0, 1, 2]}
  fusion_attention: true
predict:
  expression: Parallel("letter", "town", Fuse("letter", "town", name="length"))
  texts: [a new york, c]
  compare: {messages: [1, 3], repeats: 1}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipe")
    bert().save_pretrained(folder / "backbone")
    tokenizer().save_pretrained(folder / "backbone")
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows()), "utf-8")
    (folder / "tiny.yaml").write_text(RECIPE.replace("BACKBONE", str(folder / "backbone")), "utf-8")
    return folder


@pytest.fixture(scope="module")
def said(place: Path) -> str:
    stream = io.StringIO()
    run(place / "tiny.yaml", out=place / "run", console=Console(stream))
    return stream.getvalue()


def test_the_folder_holds_everything(place: Path, said: str) -> None:
    assert f"results in {place / 'run'}" in said
    files = {path.relative_to(place / "run").as_posix() for path in (place / "run").rglob("*") if path.is_file()}
    assert {
        "recipe.yaml",
        "resolved.yaml",
        "metrics.json",
        "report.md",
        "run.json",
        "report.html",
        "drop_curve.svg",
        "fusion_attention.svg",
        "adapters/letter/adapter.safetensors",
        "adapters/town/adapter.safetensors",
        "fusions/length/fusion.safetensors",
        "heads/length/head.safetensors",
        "plan/composition.json",
    } <= files
    assert (place / "run" / "recipe.yaml").read_bytes() == (place / "tiny.yaml").read_bytes()


def test_metrics_say_what_was_measured(place: Path, said: str) -> None:
    metrics = json.loads((place / "run" / "metrics.json").read_text())
    assert [stage["regime"] for stage in metrics["stages"]] == ["adapters", "fusion"]
    assert metrics["stages"][0]["examples"] == {"letter": 28, "town": 28}
    assert metrics["stages"][1]["examples"] == {"length": 8}
    assert list(metrics["scores"]) == ["composed", "head only", "TF-IDF"]
    assert metrics["main"] == {"letter": "accuracy", "town": "f1", "length": "accuracy"}
    for name, scores in metrics["scores"].items():
        main = [scores[task][metric] for task, metric in metrics["main"].items()]
        assert metrics["means"][name] == pytest.approx(sum(main) / 3)
    assert [point["first"] for point in metrics["drop_curve"]] == [0, 1, 2]
    flops = [point["flops"] for point in metrics["drop_curve"]]
    assert flops == sorted(flops, reverse=True) and flops[0] > flops[2]
    attention = metrics["fusion_attention"]["length"]
    assert all(sum(row["weights"].values()) == pytest.approx(1) for row in attention["rows"])
    assert {row["site"] for row in attention["rows"]} == {"attn", "ffn"}
    assert all(list(row["weights"]) == ["town"] for row in attention["rows"] if row["site"] == "attn")
    for row in metrics["compare"]:
        assert row["one_pass"]["flops"] < row["separate"]["flops"]
        assert row["largest_difference"] < 1e-4
    assert [found["text"] for found in metrics["predictions"]] == ["a new york", "c"]


def test_what_is_cut_is_told(place: Path, tmp_path: Path) -> None:
    long = {**rows()[0], "text": "a new york" + " d" * 40, "towns": []}
    (place / "long.jsonl").write_text("\n".join(json.dumps(row) for row in [*rows(), long]), "utf-8")
    recipe = (place / "tiny.yaml").read_text("utf-8").replace("test: rows.jsonl", "test: long.jsonl")
    recipe = recipe.replace("town: {kind: jsonl, train: rows.jsonl", "town: {kind: jsonl, train: long.jsonl")
    recipe = recipe.replace("texts: [a new york, c]", f"texts: [c, a{' d' * 40}]").replace("[head_only, tfidf]", "[]")
    (place / "long.yaml").write_text(recipe, "utf-8")
    stream = io.StringIO()
    run(place / "long.yaml", out=tmp_path / "run", console=Console(stream))
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["cut"] == [
        {"where": "train both", "data": "town", "texts": 1, "of": 29},
        *({"where": "test part", "data": task, "texts": 1, "of": 29} for task in ("letter", "town", "length")),
        {"where": "new messages", "data": "predict", "texts": 1, "of": 2},
    ]
    told = "train both: 1 of 29 texts of town are longer than the backbone takes, and were cut"
    assert told in stream.getvalue() and told in (tmp_path / "run" / "report.md").read_text()


def test_nothing_is_told_where_nothing_is_cut(place: Path, said: str) -> None:
    assert json.loads((place / "run" / "metrics.json").read_text())["cut"] == []
    assert "were cut" not in said and "were cut" not in (place / "run" / "report.md").read_text()


@pytest.mark.parametrize(
    ("stage", "what"),
    [
        ("regime: last_layers, last: 99", "last=99 is out of range"),
        ("regime: last_layers, last: 3", "last=3 is out of range"),
    ],
)
def test_layers_that_there_are_not_are_said_before_training(place: Path, tmp_path: Path, stage: str, what: str) -> None:
    recipe = (place / "tiny.yaml").read_text("utf-8").replace("{name: both, ", "{name: both, " + stage + ", ")
    (tmp_path / "deep.yaml").write_text(recipe.replace("rows.jsonl", str(place / "rows.jsonl")), "utf-8")
    stream = io.StringIO()
    with pytest.raises(RecipeError, match=what) as caught:
        run(tmp_path / "deep.yaml", out=tmp_path / "run", console=Console(stream))
    line = next(n for n, text in enumerate(recipe.splitlines(), 1) if "last: " in text)
    assert f"deep.yaml:{line}:" in str(caught.value) and "the backbone has 2 layers" in str(caught.value)
    assert "## train" not in stream.getvalue() and not (tmp_path / "run").exists()


def test_the_report_shows_tables_and_plots(place: Path, said: str) -> None:
    report = (place / "run" / "report.md").read_text()
    for part in (
        "# tiny",
        "## Training",
        "## Scores",
        "| mean",
        "drop_curve.svg",
        "fusion_attention.svg",
        "> a new york",
    ):
        assert part in report
    assert all((place / "run" / name).stat().st_size > 2000 for name in ("drop_curve.svg", "fusion_attention.svg"))


def test_the_resolved_recipe_runs_again_to_the_same_weights(place: Path, said: str) -> None:
    again = run(place / "run" / "resolved.yaml", out=place / "again", console=Console(quiet=True))
    first, second = (json.loads((folder / "run.json").read_text())["sha256"] for folder in (place / "run", again))
    weights = [name for name in first if name.endswith(".safetensors")]
    assert len(weights) >= 6 and all(first[name] == second[name] for name in weights)
    assert first["resolved.yaml"] == second["resolved.yaml"]


def test_a_run_answers(place: Path, said: str) -> None:
    metrics = json.loads((place / "run" / "metrics.json").read_text())
    plan = load_plan(place / "run" / "plan")
    answers = plan.predict(["a new york", "c"])
    for answer, known in zip(answers, metrics["predictions"], strict=True):
        assert answer["letter"]["label"] == known["answers"]["letter"]["label"]
        assert answer["letter"]["probability"] == pytest.approx(known["answers"]["letter"]["probability"], abs=1e-5)


def test_progress_is_told_in_plain_lines(said: str) -> None:
    assert "train both" in said and "step 2 of 8" in said and "\x1b" not in said and "\r" not in said


@pytest.mark.parametrize(
    ("override", "where", "what"),
    [
        ("backbone.name=no/such", "--set backbone.name=no/such", "cannot be loaded"),
        ("evaluate.drop_curve.first=[3]", "--set evaluate.drop_curve.first=[3]", "layers"),
        ("adapters.letter.leave_out=[7]", "--set adapters.letter.leave_out=[7]", "the backbone has 2"),
        ("predict.expression=Drop('letter', first=9)", "--set predict.expression=Drop", "layers"),
        ("data.letter.train=none.jsonl", "--set data.letter.train=none.jsonl", "cannot be read"),
    ],
)
def test_what_does_not_fit_is_told_with_its_place(place: Path, override: str, where: str, what: str) -> None:
    with pytest.raises((RecipeError, FileError)) as caught:
        run(place / "tiny.yaml", [override], out=place / "wrong", console=Console(quiet=True))
    assert where in str(caught.value) and what in str(caught.value)
    assert not list(place.glob("wrong*"))


def test_damaged_rows_are_found_before_training(place: Path) -> None:
    (place / "damaged.jsonl").write_text((place / "rows.jsonl").read_text() + "\n{", "utf-8")
    override = f"data.letter.train={place / 'damaged.jsonl'}"
    with pytest.raises(FileError, match=r"damaged.jsonl:29:2: not JSON"):
        run(place / "tiny.yaml", [override], out=place / "wrong", console=Console(quiet=True))


def test_regimes_and_types_of_weights(place: Path) -> None:
    overrides = ["train.0.regime=full+adapters", "train.1.regime=heads", "evaluate.baselines=[]", "report.plots=false"]
    _, recipe = read_recipe(place / "tiny.yaml", overrides)
    assert recipe.train[0].rate == 1e-2 and recipe.train[1].rate == 1e-3
    done = run(place / "tiny.yaml", overrides, out=place / "full", console=Console(quiet=True))
    found = json.loads((done / "metrics.json").read_text())
    answers = load_plan(done / "plan").predict(["a new york", "c"])  # the backbone is no longer that of its folder
    for answer, before in zip(answers, found["predictions"], strict=True):
        assert answer["letter"]["probability"] == pytest.approx(before["answers"]["letter"]["probability"], abs=1e-6)
    stages = found["stages"]
    assert stages[0]["trained_parameters"] > sum(parameter.numel() for parameter in bert().parameters())
    assert not (done / "drop_curve.svg").exists()
    assert torch.get_default_dtype() == torch.float32


def test_adapters_that_are_pruned_before_training(place: Path) -> None:
    overrides = ["adapters.letter.sparsity=0.5", "adapters.letter.pruning=random", "evaluate.baselines=[]"]
    done = run(
        place / "tiny.yaml", [*overrides, "report.plots=false"], out=place / "sparse", console=Console(quiet=True)
    )
    model = load_plan(done / "plan").model
    assert model.adapters["letter"].masks.sparsity() == 0.5 and not model.adapters["town"].masks
    with pytest.raises(RecipeError, match="less than 1"):
        read_recipe(place / "tiny.yaml", ["adapters.letter.sparsity=1.0"])


def test_adapters_that_snip_prunes_before_their_stage(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overrides = [
        "adapters.letter.sparsity=0.5",
        "adapters.letter.pruning=snip",
        "adapters.letter.pruning_examples=8",
        "evaluate.baselines=[]",
        "report.plots=false",
    ]
    done = run(place / "tiny.yaml", overrides, out=place / "snip", console=Console())
    assert "50.0% pruned (snip)" in capsys.readouterr().out
    adapter = load_plan(done / "plan").model.adapters["letter"]
    assert adapter.masks.sparsity() == 0.5
    other = run(
        place / "tiny.yaml",
        [*overrides[:1], "adapters.letter.pruning=magnitude", *overrides[3:]],
        out=place / "magnitude",
        console=Console(quiet=True),
    )
    masks = load_plan(other / "plan").model.adapters["letter"].masks.by_name()
    assert any(not mask.equal(masks[name]) for name, mask in adapter.masks.by_name().items())


def test_the_files_of_a_recipe_are_kept(place: Path) -> None:
    own = "include: tiny.yaml\nname: over\nevaluate: {baselines: [], drop_curve: null, fusion_attention: false}\n"
    (place / "over.yaml").write_text(own, "utf-8")
    done = run(place / "over.yaml", ["report.plots=false"], out=place / "over", console=Console(quiet=True))
    assert (done / "recipe.yaml").read_text("utf-8") == own
    assert (done / "included-1-tiny.yaml").read_text("utf-8") == (place / "tiny.yaml").read_text("utf-8")
    resolved = read_recipe(done / "resolved.yaml")[1]
    assert resolved.name == "over" and resolved.include is None and not resolved.evaluate.baselines
