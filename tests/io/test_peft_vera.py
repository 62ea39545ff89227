"""PEFT's VeRA: it computes what we compute from files of ours, and we from its."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
from safetensors.torch import load_file, save_file

from compose.errors import FileError
from tests import tiny
from tests.io.folders import same
from tests.io.test_peft import QUERIES, close, loaded, quietly, states
from tests.io.test_peft_methods import made, write_theirs

ALL = tuple(tiny.CONFIGS)
OURS: dict[str, dict[str, Any]] = {
    "plain": {"attn_matrices": ["q", "k", "v"], "alpha": 12},
    "feed-forward": {"selfattn_lora": False, "intermediate_lora": True, "output_lora": True, "leave_out": [0], "r": 3},
    "one": {"attn_matrices": ["q"], "leave_out": [1]},
}


def alike_on_fused_maps(model: Any) -> None:
    """To PEFT a fused map has one d."""
    tensors = model.adapters["a"].tensors()
    for name, tensor in tensors.items():
        if name.endswith((".attn.k.d", ".attn.v.d")):
            tensor.copy_(tensors[name[:-3] + "q.d"])


@pytest.mark.parametrize("architecture", ALL)
@pytest.mark.parametrize("case", OURS)
def test_peft_computes_what_we_do(tmp_path: Path, architecture: str, case: str) -> None:
    model = made(architecture, "vera", **OURS[case], stacked=architecture == "gpt2")
    if architecture == "gpt2":
        alike_on_fused_maps(model)
    model.save_adapter("a", tmp_path, format="peft")
    expected = states(model, "a")
    close(loaded(tmp_path, architecture), expected)
    model.load_adapter(tmp_path, "b")
    close(states(model, "b"), expected)
    assert (expected - states(model, None)).abs().max() > 1e-4


@pytest.mark.parametrize("architecture", ALL)
@pytest.mark.parametrize("kept", [True, False])
def test_we_compute_what_peft_does(tmp_path: Path, architecture: str, kept: bool) -> None:
    """Without the projections in its file too, which are then drawn as PEFT draws them."""
    config = quietly(
        peft.VeraConfig,
        r=5,
        target_modules=QUERIES[architecture],
        save_projection=kept,
        projection_prng_key=7,
        d_initial=0.3,
    )
    theirs = write_theirs(tmp_path / "a", architecture, config)
    model = tiny.model(architecture)
    model.load_adapter(tmp_path / "a")
    close(states(model, "a"), theirs)
    assert model.adapters["a"].config.to_dict()["vera_d"] == 0.3
    model.save_adapter("a", tmp_path / "b", format="peft")
    close(loaded(tmp_path / "b", architecture), theirs)
    if kept:
        assert same(*(load_file(tmp_path / name / "adapter_model.safetensors") for name in "ab"))


@pytest.mark.parametrize(
    ("architecture", "options", "message"),
    [
        ("bert", {"use_gating": True}, "VeRA has no gate"),
        ("bert", {"square": True}, "no square=True"),
        ("gpt2", {"attn_matrices": ["q", "v"]}, r"no stacked=False for h\.0\.attn\.c_attn"),
        ("gpt2", {"attn_matrices": ["q", "v"], "stacked": True}, r"parts of h\.0\.attn\.c_attn have a d each"),
    ],
)
def test_what_peft_cannot_say(tmp_path: Path, architecture: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(FileError, match=message):
        made(architecture, "vera", **options).save_adapter("a", tmp_path, format="peft")
    assert not list(tmp_path.iterdir())


def test_files_that_are_damaged(tmp_path: Path) -> None:
    write_theirs(tmp_path, "bert", peft.VeraConfig(r=5, target_modules=["query"]))
    path, model = tmp_path / "adapter_model.safetensors", tiny.model("bert")
    tensors = load_file(path)
    own = "base_model.model.encoder.layer.0.attention.self.query.vera_lambda_b"
    for changed, message in (
        ({key: tensor for key, tensor in tensors.items() if "vera_A" not in key}, "'vera_A' is missing"),
        ({key: tensor for key, tensor in tensors.items() if key != own}, "query: 'vera_lambda_b' is missing"),
        (tensors | {own: tensors[own][1:].clone()}, r"of shape \(31,\), not \(32,\)"),
        (tensors | {"base_model.vera_B": tensors["base_model.vera_B"][:9].clone()}, r"'vera_B' is of shape \(9, 5\)"),
        (tensors | {"base_model.vera_lambda_b": tensors[own].clone()}, "has no place"),
    ):
        save_file(changed, path)
        with pytest.raises(FileError, match=message):
            model.load_adapter(tmp_path)
    save_file(tensors, path)
    config = tmp_path / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "bias": "vera_only"}))
    with pytest.raises(FileError, match="trained biases"):
        model.load_adapter(tmp_path)
