"""PEFT's DoRA and IA3: it computes what we compute from files of ours, and we from its."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor

from compose.errors import FileError
from compose.io.peft.methods import METHODS
from compose.runtime.model import Model
from tests import tiny
from tests.io.folders import same
from tests.io.test_peft import QUERIES, close, loaded, quietly, states, their_states

ALL = tuple(tiny.CONFIGS)
DORA: dict[str, dict[str, Any]] = {
    "plain": {"attn_matrices": ["q", "k", "v"], "alpha": 12},
    "feed-forward": {"selfattn_lora": False, "intermediate_lora": True, "output_lora": True, "leave_out": [0], "r": 3},
}
IA3: dict[str, dict[str, Any]] = {
    "plain": {},
    "every map": {"attn_matrices": ["q", "k", "v", "o"], "output_lora": True, "alpha": 0.5},
    "one": {"attn_matrices": ["q"], "intermediate_lora": False, "leave_out": [1]},
}


def made(architecture: str, method: str, **options: Any) -> Model:
    model = tiny.model(architecture)
    tiny.randomize(model.add_adapter("a", method, **options))
    return model


@pytest.mark.parametrize("architecture", ALL)
@pytest.mark.parametrize(
    ("method", "options"), [*(("dora", each) for each in DORA.values()), *(("ia3", each) for each in IA3.values())]
)
def test_peft_computes_what_we_do(tmp_path: Path, architecture: str, method: str, options: dict[str, Any]) -> None:
    model = made(architecture, method, **options)
    model.save_adapter("a", tmp_path, format="peft")
    expected = states(model, "a")
    close(loaded(tmp_path, architecture), expected)
    model.load_adapter(tmp_path, "b")
    close(states(model, "b"), expected)
    assert model.adapters["b"].config.method == method


def write_theirs(folder: Path, architecture: str, config: peft.PeftConfig) -> Tensor:
    """A folder of PEFT's over a bare backbone; what it computes."""
    theirs = quietly(peft.get_peft_model, tiny.backbone(architecture), config).double()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3 + 0.5)
    quietly(theirs.save_pretrained, folder)
    return their_states(theirs, architecture)


@pytest.mark.parametrize("architecture", ALL)
def test_we_compute_what_pefts_dora_does(tmp_path: Path, architecture: str) -> None:
    config = peft.LoraConfig(use_dora=True, r=3, lora_alpha=5, target_modules=QUERIES[architecture])
    theirs = write_theirs(tmp_path, architecture, config)
    model = tiny.model(architecture)
    model.load_adapter(tmp_path, "a")
    close(states(model, "a"), theirs)


GIVEN = {"bert": ["key", "intermediate.dense"], "gpt2": ["c_attn", "c_fc"], "t5": ["k", "v", "wi"], "vit": ["v_proj"]}


@pytest.mark.parametrize("architecture", GIVEN)
def test_we_compute_what_pefts_ia3_does(tmp_path: Path, architecture: str) -> None:
    config = peft.IA3Config(target_modules=GIVEN[architecture], feedforward_modules=[])
    theirs = write_theirs(tmp_path, architecture, config)
    model = tiny.model(architecture)
    model.load_adapter(tmp_path, "a")
    close(states(model, "a"), theirs)
    model.save_adapter("a", tmp_path / "again", format="peft")
    model.load_adapter(tmp_path / "again", "b")
    assert same(model.adapters["a"].tensors(), model.adapters["b"].tensors())


def test_what_the_last_map_reads(tmp_path: Path) -> None:
    """PEFT's default: in a gated block the same as what the first map gives, elsewhere the activation is between."""
    theirs = write_theirs(tmp_path / "llama", "llama", peft.IA3Config())
    model = tiny.model("llama")
    model.load_adapter(tmp_path / "llama", "a")
    close(states(model, "a"), theirs)
    write_theirs(tmp_path / "bert", "bert", peft.IA3Config())
    with pytest.raises(FileError, match="a scaling of what the map reads"):
        tiny.model("bert").load_adapter(tmp_path / "bert")


@pytest.mark.parametrize(
    ("architecture", "method", "options", "message"),
    [
        ("bert", "ia3", {"use_gating": True}, "IA3 has no gate"),
        ("bert", "dora", {"use_gating": True}, "no gate"),
        ("bert", "dora", {"scaled_bias": True}, "no scaled_bias=True"),
        ("bert", "dora", {"scaled_norm": False, "alpha": 2}, "no scaled_norm=False"),
        ("gpt2", "dora", {}, "cannot leave a part of a map as it is"),
        ("bert", "reft", {}, "'reft' cannot be written"),
    ],
)
def test_what_peft_cannot_say(
    tmp_path: Path, architecture: str, method: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(FileError, match=message):
        made(architecture, method, **options).save_adapter("a", tmp_path, format="peft")
    assert not list(tmp_path.iterdir())


def test_every_method_of_pefts_is_one_of_ours() -> None:
    read_alone = {"P_TUNING"}  # its files hold a prompt
    written = [row.ours for row in METHODS if row.peft_type not in read_alone]
    assert len(set(written)) == len(written) and {row.ours for row in METHODS} == set(written)
