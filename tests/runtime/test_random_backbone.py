"""Backbones made of a config, images as inputs, and compositions that bring their backbone with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compose.dsl import Parallel
from compose.errors import ConfigError, FileError, InputError
from compose.runtime.attach import load_plan
from compose.runtime.image import Image
from compose.runtime.random_backbone import random_backbone
from compose.runtime.runnable import RunnablePlan

TINY: dict[str, Any] = {
    "image_size": 8, "patch_size": 4, "num_channels": 1, "hidden_size": 16, "intermediate_size": 16,
    "num_hidden_layers": 1, "num_attention_heads": 2,
}  # fmt: skip


def plan_of(seed: int = 0) -> RunnablePlan:
    model = random_backbone("vit", TINY, seed)
    torch.manual_seed(seed)
    model.add_adapter("a")
    model.add_head("a", labels=["no", "yes"], pooling="mean")
    return model.plan(Parallel("a"))


def test_weights_are_the_seeds_and_other_random_numbers_stay() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, same, other = (dict(random_backbone("vit", TINY, seed).backbone.named_parameters()) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    name = "embeddings.patch_embeddings.projection.weight"
    assert all(torch.equal(value, same[name]) for name, value in first.items())
    assert not torch.equal(first[name], other[name])


def test_texts_need_a_tokenizer() -> None:
    config = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = random_backbone("bert", {**config, "intermediate_size": 8}, precision="float32")
    assert model.precision == "float32" and model.tokenizer is None
    model.add_head("a", labels=2)
    with pytest.raises(InputError, match="no tokenizer"):
        model.plan(Parallel(a=None)).predict(["a"])


def test_everything_wrong_with_a_config_is_said() -> None:
    with pytest.raises(ConfigError) as caught:
        random_backbone("vit", {**TINY, "auto_map": {}, "_attn_implementation": "eager", "widht": 3})
    assert len(caught.value.problems) == 3
    with pytest.raises(ConfigError, match="num_hidden_layers is 0"):
        random_backbone("vit", {**TINY, "num_hidden_layers": 0})
    with pytest.raises(ConfigError, match="no architecture 'bart'"):
        random_backbone("bart")


def test_images_are_arrays_of_the_backbones_size() -> None:
    plan = plan_of()
    pixels = np.linspace(0, 1, 64).reshape(8, 8)
    answers = plan.predict([pixels, torch.tensor(pixels)[None], Image.of(pixels), pixels.tolist()], batch_size=3)
    assert all(answer["a"]["probabilities"] == pytest.approx(answers[0]["a"]["probabilities"]) for answer in answers)
    out = plan(pixel_values=torch.tensor(pixels, dtype=torch.float32)[None, None] * 2 - 1)
    assert answers[0]["a"]["probability"] == pytest.approx(float(out["a"].logits.detach().softmax(-1).max()), abs=1e-6)
    assert plan.predict([]) == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("a text", "inputs of type str, but a list of images"),
        (["a text"], "input 0: str where an image is needed"),
        ([np.zeros((8, 8)), np.zeros((3, 8, 8))], "input 1: an image of 3 x 8 x 8, but the backbone takes 1 x 8 x 8"),
        ([np.full((8, 8), 255)], "input 0: numbers that are not between 0 and 1"),
        ([np.full((8, 8), np.nan)], "input 0: numbers that are not between 0 and 1"),
        ([np.zeros(64)], "input 0: an array of shape \\[64\\]"),
        ([[[1, "a"]]], "input 0: list where an image"),
        (3, "inputs of type int"),
        (np.array(3.0), "inputs of type ndarray"),
    ],
)
def test_other_inputs_are_refused(given: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        plan_of().predict(given)


def test_images_are_told_apart_by_their_numbers() -> None:
    one, other = Image.of(np.zeros((8, 8))), Image.of(np.eye(8))
    assert one == Image.of(np.zeros((1, 8, 8))) and hash(one) == hash(Image.of(np.zeros((8, 8))))
    assert one != other and repr(one) != repr(other) and repr(one).startswith("Image(1 x 8 x 8, ")


def test_a_composition_brings_its_backbone(tmp_path: Path) -> None:
    plan, image = plan_of(1), np.eye(8)
    plan.save(tmp_path / "a", with_backbone=True)
    (tmp_path / "a").rename(tmp_path / "moved")
    again = load_plan(tmp_path / "moved")
    expected = plan.predict([image])[0]["a"]["probabilities"]
    assert again.predict([image])[0]["a"]["probabilities"] == expected
    before = {path.name for path in (tmp_path / "moved").iterdir()}
    plan.save(tmp_path / "moved", with_backbone=True)
    assert {path.name for path in (tmp_path / "moved").iterdir()} == before
    other = plan_of(2)
    other.save(tmp_path / "moved", with_backbone=True)
    assert len(list((tmp_path / "moved").glob("backbone-*"))) == 1 and not list((tmp_path / "moved").glob(".backbone*"))
    expected = other.predict([image])[0]["a"]["probabilities"]
    assert load_plan(tmp_path / "moved").predict([image])[0]["a"]["probabilities"] == expected
    with pytest.raises(FileError, match="holds no backbone"):
        plan.save(tmp_path / "b", format="adapterhub", with_backbone=True)


@pytest.mark.parametrize("called", ["./..", "./backbone-0000000000000000", "./../moved", "./"])
def test_a_backbone_inside_is_in_the_folder(tmp_path: Path, called: str) -> None:
    plan_of().save(tmp_path, with_backbone=True)
    manifest = json.loads((tmp_path / "composition.json").read_text("utf-8"))
    (tmp_path / "composition.json").write_text(json.dumps({**manifest, "backbone": called}), "utf-8")
    with pytest.raises(FileError, match="its backbone is not there"):
        load_plan(tmp_path)
