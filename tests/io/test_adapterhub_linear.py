"""AdapterHub's files of IA3, DoRA, VeRA, DVoRA and MTL-LoRA: what their fields and weights mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from compose.errors import FileError
from compose.io import read_adapter
from compose.io.native import save_adapter
from compose.methods.adapter import Adapter
from compose.methods.registry import make_config
from compose.specs import BackboneSpec
from tests.io.folders import LORA, backbone, draw, write_adapterhub

QUERY, VALUE = (f"bert.encoder.layer.{{}}.attention.self.{name}.loras.a." for name in ("query", "value"))
SHARED = {"bert.shared_parameters.a.lora_A": (2, 8), "bert.shared_parameters.a.lora_B": (8, 2)}
VERA = {"vera_d": 0.1, "vera_b": 0.0, "init_weights": "vera"}
FACTORS = {"lora_A": (2, 8), "lora_B": (8, 2)}
SQUARES = {"vera_D": (2, 2), "vera_B": (8, 8)}
MAGNITUDE = {"m.weight": (8, 1)}
MTL = {"architecture": "mtl_lora", "n_up_projection": 3, "weights_sharpness": 0.05}

CASES: dict[str, tuple[dict[str, Any], dict[str, tuple[int, ...]], dict[str, tuple[int, ...]], dict[str, str]]] = {
    "dora": ({"use_dora": True}, {**FACTORS, **MAGNITUDE}, {},
             {"lora_A": "update.a", "lora_B": "update.b", "m.weight": "magnitude"}),
    "vera": (VERA, SQUARES, SHARED, {"vera_D": "d", "vera_B": "b"}),
    "dvora": ({**VERA, "use_dora": True}, {**SQUARES, **MAGNITUDE}, SHARED,
              {"vera_D": "update.d", "vera_B": "update.b", "m.weight": "magnitude"}),
    "ia3": ({"composition_mode": "scale", "r": 1, "alpha": 1, "init_weights": "ia3"}, {"lora_B": (8, 1)}, {},
            {"lora_B": "scaling"}),
    "mtl_lora": ({**MTL, "task_specific_matrix_type": "linear"},
                 {"lora_A": (2, 8), "lora_B": (3, 8, 2), "weights": (3,), "task_specific.values": (2, 2)}, {},
                 {"lora_A": "a", "lora_B": "b", "weights": "weights", "task_specific.values": "task"}),
}  # fmt: skip


def tensors_of(method: str, parents: tuple[str, ...] = (QUERY, VALUE)) -> dict[str, Tensor]:
    _, own, shared, _ = CASES[method]
    places = [parent.format(layer) for parent in parents for layer in range(2)]
    return draw({f"{place}{name}": shape for place in places for name, shape in own.items()} | shared)


def made(config: Any, spec: BackboneSpec, tensors: dict[str, Tensor]) -> Adapter:
    adapter = Adapter("a", config, spec)
    adapter.load_tensors(tensors)
    return adapter


@pytest.mark.parametrize("method", CASES)
def test_every_tensor_finds_its_place(method: str, tmp_path: Path) -> None:
    options, _, _, names = CASES[method]
    tensors = tensors_of(method)
    write_adapterhub(tmp_path / "theirs", {**LORA, **options}, tensors)
    found = read_adapter(tmp_path / "theirs", backbone())
    assert found.config.method == method
    adapter = made(found.config, backbone(), found.tensors)
    for theirs, ours in names.items():
        given = tensors[QUERY.format(1) + theirs]
        assert adapter.tensors()[f"1.attn.q.{ours}"].flatten().equal(given.flatten())
    if CASES[method][2]:
        assert adapter.tensors()["shared.b"].equal(tensors["bert.shared_parameters.a.lora_B"])
    found.tensors = adapter.tensors()
    save_adapter(found, tmp_path / "ours")
    again = read_adapter(tmp_path / "ours", backbone())
    assert again.config == found.config and again.tensors.keys() == found.tensors.keys()
    assert all(value.equal(found.tensors[name]) for name, value in again.tensors.items())


def test_what_is_meant_otherwise_than_in_the_papers() -> None:
    """Its DoRA takes the norm without the scaling, and stretches the bias; its VeRA trains full matrices."""
    assert make_config("dora").scaled_norm and not make_config("dora").scaled_bias  # type: ignore[attr-defined]
    assert not make_config("vera").square  # type: ignore[attr-defined]


APART = {"scaled_norm": False, "scaled_bias": True}


@pytest.mark.parametrize(
    ("method", "written"), [("dora", APART), ("vera", {"square": True}), ("dvora", {**APART, "square": True})]
)
def test_its_meaning_is_kept(method: str, written: dict[str, bool], tmp_path: Path) -> None:
    write_adapterhub(tmp_path, {**LORA, **CASES[method][0]}, tensors_of(method))
    found = read_adapter(tmp_path, backbone()).config.to_dict()
    assert {name: found[name] for name in written} == written


def test_ia3_on_a_fused_map(tmp_path: Path) -> None:
    """Keys and values lie one after the other in one tensor, and only the vectors are kept."""
    tensors = draw(
        {"transformer.h.1.attn.c_attn.loras.a.lora_B": (16, 1), "transformer.h.1.mlp.c_fc.loras.a.lora_B": (8, 1)}
    )
    config = {**LORA, **CASES["ia3"][0], "attn_matrices": ["k", "v"], "intermediate_lora": True, "leave_out": [0]}
    write_adapterhub(tmp_path, config, tensors, model_type="gpt2")
    found = read_adapter(tmp_path, backbone("gpt2"))
    whole = tensors["transformer.h.1.attn.c_attn.loras.a.lora_B"]
    assert found.tensors["1.attn.k.scaling"].equal(whole[:8, 0])
    assert found.tensors["1.attn.v.scaling"].equal(whole[8:, 0])
    made(found.config, backbone("gpt2"), found.tensors)


@pytest.mark.parametrize("method", ["vera", "mtl_lora", "dora"])
def test_what_it_cannot_compute_on_a_fused_map(method: str, tmp_path: Path) -> None:
    tensors = tensors_of(method, ("transformer.h.{}.attn.c_attn.loras.a.",))
    tensors = {key.replace("bert.", "transformer."): value for key, value in tensors.items()}
    write_adapterhub(tmp_path, {**LORA, **CASES[method][0]}, tensors, model_type="gpt2")
    with pytest.raises(FileError, match=f"AdapterHub cannot compute {method} on a fused map"):
        read_adapter(tmp_path, backbone("gpt2"))


def test_llama_scales_what_the_last_map_gives(tmp_path: Path) -> None:
    """Its `intermediate_lora` is the last map of LLaMA's feed-forward block."""
    tensors = draw({"model.layers.1.mlp.down_proj.loras.a.lora_B": (8, 1)})
    config = {**LORA, **CASES["ia3"][0], "selfattn_lora": False, "intermediate_lora": True, "leave_out": [0]}
    write_adapterhub(tmp_path, config, tensors, model_type="llama")
    found = read_adapter(tmp_path, backbone("llama"))
    assert found.tensors.keys() == {"1.ffn.out.scaling"}
    made(found.config, backbone("llama"), found.tensors)


def test_shared_weights_of_others(tmp_path: Path) -> None:
    wrong = {"bert.shared_parameters.b.lora_A": torch.ones(2, 8), "bert.shared_parameters.a.lora_C": torch.ones(2)}
    write_adapterhub(tmp_path, {**LORA, **VERA}, {**tensors_of("vera"), **wrong})
    with pytest.raises(FileError) as caught:
        read_adapter(tmp_path, backbone())
    assert "belongs to 'b'" in str(caught.value) and "gives it no 'lora_C'" in str(caught.value)
    write_adapterhub(tmp_path, LORA, {"bert.shared_parameters.a.lora_A": torch.ones(2, 8)})
    with pytest.raises(FileError, match="asks for 'loras'"):
        read_adapter(tmp_path, backbone())


@pytest.mark.parametrize("method", ["lora", "dora", "mtl_lora"])
@pytest.mark.parametrize("start", ["ia3", "vera"])
def test_how_weights_started_makes_no_difference(method: str, start: str, tmp_path: Path) -> None:
    """Its LoRA can start as other methods do; what was trained since is in the file."""
    options, tensors = ({}, draw(FACTORS)) if method == "lora" else (CASES[method][0], draw(CASES[method][1]))
    places = {f"{QUERY.format(0)}{name}": tensor for name, tensor in tensors.items()}
    content = {**LORA, **options, "init_weights": start, "attn_matrices": ["q"], "leave_out": [1]}
    write_adapterhub(tmp_path, content, places)
    found = read_adapter(tmp_path, backbone())
    assert found.config.method == method
    made(found.config, backbone(), found.tensors)


def test_whole_numbers_make_no_vera(tmp_path: Path) -> None:
    """It makes a VeRA where one of the two is a float; with whole numbers alone its files hold a LoRA."""
    content = {**LORA, "vera_d": 1, "vera_b": 0, "attn_matrices": ["q"], "leave_out": [1]}
    write_adapterhub(tmp_path, content, draw({f"{QUERY.format(0)}{name}": shape for name, shape in FACTORS.items()}))
    assert read_adapter(tmp_path, backbone()).config.method == "lora"
    write_adapterhub(tmp_path, {**LORA, "vera_d": 0.5, "vera_b": 1}, tensors_of("vera"))
    assert read_adapter(tmp_path, backbone()).config.to_dict()["vera_b"] == 1.0
