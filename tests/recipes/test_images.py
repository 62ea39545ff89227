"""Recipes with images: digits, a backbone made of a config, and a run that keeps the backbone that it trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from compose.cli.predict import command as predict_command
from compose.errors import ComposeError, FileError, RecipeError
from compose.recipes.console import Console
from compose.recipes.runner import run
from compose.recipes.schema import Digits
from compose.recipes.training import Training
from compose.recipes.validate import read_recipe
from compose.runtime.attach import load_plan
from compose.runtime.image import Image
from compose.train.columns import Columns
from compose.train.formats.digits import ATTRIBUTES, DigitsPart
from compose.train.read import read_part
from tests.recipes.small import SMALL, error_of, read

RECIPE = """\
recipe: 1
name: small
seed: 3
backbone:
  architecture: vit
  config: {image_size: 8, patch_size: 4, num_channels: 1, hidden_size: 16, intermediate_size: 16,
           num_hidden_layers: 1, num_attention_heads: 2, hidden_dropout_prob: 0.1}
data:
  digit: {kind: digits, label: digit, sample: {train: 40, test: 20}}
  loop: {kind: digits, label: loop, sample: {train: 30, test: 20}, validation: 0.1}
adapters:
  loop: {method: seq_bn, reduction_factor: 4}
heads:
  digit: {kind: classification, pooling: mean, layers: 1}
  loop: {kind: classification, pooling: mean, layers: 1}
train:
  - {expression: 'Parallel(digit=None)', regime: full, epochs: 1, batch_size: 20, learning_rate: 1e-2}
  - {expression: loop, epochs: 1, batch_tokens: 100, learning_rate: 1e-2}
evaluate:
  expressions: {composed: 'Parallel("loop", digit=None)'}
  baselines: [head_only]
  drop_curve: {expression: loop, first: [0, 1]}
predict:
  expression: Parallel(digit=None, loop="loop")
  examples: 2
  compare: {messages: [1, 3], repeats: 1}
report: {plots: false}
"""
SMALLER = ["evaluate.baselines=[]", "evaluate.drop_curve=null", "predict.compare=null"]
QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    (folder / "small.yaml").write_text(RECIPE, "utf-8")
    return folder


@pytest.fixture(scope="module")
def done(place: Path) -> Path:
    return run(place / "small.yaml", out=place / "done", console=QUIET)


def test_every_part_of_a_run_reads_images(done: Path) -> None:
    found = json.loads((done / "metrics.json").read_text("utf-8"))
    assert found["stages"][0]["regime"] == "full" and found["stages"][0]["examples"] == {"digit": 40}
    assert set(found["scores"]) == {"composed", "head only"} and set(found["scores"]["composed"]) == {"digit", "loop"}
    assert found["systems"]["composed"]["tokens"] == found["drop_curve"][0]["tokens"] == 5
    assert found["compare"][1]["messages"] == 3 and found["compare"][1]["largest_difference"] < 1e-5
    told = [row["text"] for row in found["predictions"]]
    assert [text[:-4] for text in told] == [f"image {number} of the test part of data.digit" for number in (0, 1)]
    assert all(text[-3] + text[-1] == "()" and text[-2].isdecimal() for text in told)
    page = (done / "report.md").read_text("utf-8")
    assert "vit, made of its config" in page and "of the test part of data.digit" in page


def test_a_run_keeps_the_backbone_that_it_trained(done: Path) -> None:
    said = json.loads((done / "metrics.json").read_text("utf-8"))["predictions"]
    columns = Columns(image="image", label="digit")
    recipe = read_recipe(done / "resolved.yaml")[1]
    assert recipe.data["digit"].sample.test == 20
    plan = load_plan(done / "plan")
    assert plan.model.spec.modality == "image" and not plan.model.training
    from compose.recipes.sources import read_sources

    test = read_sources(recipe, done, {"digit"})["digit"].test[:2]
    assert all(example in read_part(DigitsPart("test"), columns) for example in test)
    for answer, before in zip(plan.predict([example.input for example in test]), said, strict=True):
        for task, told in before["answers"].items():
            assert answer[task]["probabilities"] == pytest.approx(told["probabilities"], abs=1e-6)


def test_predict_answers_arrays_of_images(done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def predict(*texts: str, file: Path | None = None) -> list[dict[str, Any]]:
        nothing: dict[str, Any] = dict.fromkeys(("task", "stride", "batch_size", "batch_tokens", "precision"))
        more = {"as_json": True, "truncate": False, "compare_precision": False}
        predict_command(done, list(texts), None if file is None else str(file), **nothing, **more)
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    np.save(tmp_path / "images.npy", np.zeros((2, 8, 8)))
    assert [row["text"] for row in predict(file=tmp_path / "images.npy")] == ["image 0", "image 1"]
    with pytest.raises(ComposeError, match="str where an image is needed"):
        predict("a text")
    np.save(tmp_path / "one.npy", np.zeros((8, 8)))
    with pytest.raises(FileError, match="holds no images"):
        predict(file=tmp_path / "one.npy")
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(FileError, match="is no array of numpy"):
        predict(file=tmp_path / "objects.npy")


def test_a_run_goes_on_after_its_backbone_was_trained(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(place / "small.yaml", SMALLER, out=place / "whole", console=QUIET)
    stage = Training.stage

    def interrupted(self: Training, index: int, *args: Any) -> dict[str, Any]:
        if index == 1:
            raise KeyboardInterrupt
        return stage(self, index, *args)

    with monkeypatch.context() as patched:
        patched.setattr(Training, "stage", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(place / "small.yaml", SMALLER, out=place / "resumed", console=QUIET)
    resumed = run(place / "small.yaml", SMALLER, out=place / "resumed", console=QUIET, resume=True)
    digests = [json.loads((folder / "run.json").read_text("utf-8"))["sha256"] for folder in (whole, resumed)]
    weights = [{name: found for name, found in each.items() if name.endswith(".safetensors")} for each in digests]
    assert weights[0] == weights[1] and any("plan/backbone-" in name for name in weights[0])


def test_digits_are_cut_and_labelled() -> None:
    parts = {part: read_part(DigitsPart(part), Columns(image="image", label="digit")) for part in ("train", "test")}
    assert {part: len(found) for part, found in parts.items()} == {"train": 1348, "test": 449}
    assert [example.target for example in parts["train"][:4]] == ["0", "1", "2", "4"]
    first = parts["train"][0].input
    assert isinstance(first, Image) and first.shape == (1, 8, 8) and 0 <= first.array().min() < first.array().max() <= 1
    assert get_args(Digits.model_fields["label"].annotation) == tuple(ATTRIBUTES)
    said = {name: [of(digit, 5.0) for digit in (0, 3, 9)] for name, of in ATTRIBUTES.items()}
    assert said == {
        "digit": ["0", "3", "9"],
        "parity": ["even", "odd", "odd"],
        "above_4": ["no", "no", "yes"],
        "loop": ["closed", "open", "closed"],
        "ink": ["much", "much", "much"],
    }


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("evaluate.baselines=[tfidf]", "tfidf counts words, but task 'loop' reads images"),
        ("predict.texts=[a]", "reads images, but predict.texts are single texts"),
        ("heads.loop.kind=tagging", "learns from entities or tags, but data.loop has label"),
        ("heads.loop.kind=causal_lm", "learns from text alone, but data.loop has label"),
        ("data.digit.label=colour", "data.digit.label must be one of the legal values, not 'colour'"),
        ("data.digit.scheme=iob1", "scheme has no meaning without tags"),
        ("backbone.architecture=vitt", "there is no architecture 'vitt'"),
        (
            "backbone.architecture=bert",
            "data.digit has images, but the backbone 'bert, made of its config' reads texts",
        ),
        ("backbone.config.hiden_size=8", "backbone.config: 'vit' has no 'hiden_size'"),
        ("backbone.config.hidden_size=wide", "backbone.config.hidden_size cannot be 'wide'"),
        ("backbone.config.hidden_size=0", "backbone.config.hidden_size is 0, but a number of at least 1"),
        ("backbone.name=minilm", "name and architecture exclude each other"),
    ],
)
def test_what_does_not_fit_is_said_before_a_run(override: str, said: str) -> None:
    assert said in error_of(RECIPE, override)


def test_a_backbone_has_a_name_or_an_architecture() -> None:
    assert read(RECIPE).backbone.called == "vit, made of its config"
    assert "backbone needs a name, or an architecture" in error_of(SMALL.replace("backbone: minilm", "backbone: {}"))
    given = SMALL.replace("backbone: minilm", "backbone: {name: minilm, config: {hidden_size: 8}}")
    assert "backbone.config is for an architecture" in error_of(given)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["train.1.trunk_cache=true"], "trunk_cache: it keeps the states of texts, and the backbone reads images"),
        (["backbone.config.hidden_act=nope"], "no 'vit' can be made of this config"),
        (["backbone.config.num_channels=3"], "an image of 1 x 8 x 8, but the backbone takes 3 x 8 x 8"),
    ],
)
def test_what_only_a_backbone_can_tell(place: Path, overrides: list[str], said: str) -> None:
    with pytest.raises(ComposeError, match=said):
        run(place / "small.yaml", overrides, out=place / "wrong", console=QUIET)


def test_texts_for_a_backbone_of_images_and_the_other_way_round(place: Path, done: Path) -> None:
    backbone = next((done / "plan").glob("backbone-*"))
    (place / "texts.yaml").write_text(SMALL.replace("backbone: minilm", f"backbone: {backbone}"), "utf-8")
    with pytest.raises(RecipeError, match=r"data.topic has texts, but the backbone '.*' reads images"):
        run(place / "texts.yaml", out=place / "wrong", console=QUIET)
