"""AdapterHub's folders: what each key means, what is refused, and what old versions meant."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from compose.dsl import parse
from compose.errors import FileError
from compose.heads.spec import CausalLMConfig, ClassificationConfig, QuestionAnsweringConfig, TaggingConfig
from compose.io import fusion_sites, read_adapter, read_composition, read_fusion, read_head, read_setup
from compose.io.adapterhub.keys import KEYS
from compose.io.view import View
from compose.methods.adapter import Adapter
from compose.methods.bottleneck.spec import BottleneckConfig
from compose.methods.lora.spec import LoraConfig
from tests.io.folders import BOTTLENECK, LORA, backbone, bottleneck_keys, draw, write_adapterhub

# Where each architecture has its bottlenecks, and a query map for LoRA.
PLACES: dict[str, tuple[str, str, str, str]] = {
    "bert": (
        "bert.encoder.layer.1.attention.output",
        "encoder.layer.1.output",
        "bert.encoder.layer.1.attention.self.query",
        "intermediate.dense",
    ),
    "roberta": (
        "roberta.encoder.layer.1.attention.output",
        "roberta.encoder.layer.1.output",
        "encoder.layer.1.attention.self.query",
        "intermediate.dense",
    ),
    "xlm-roberta": (
        "roberta.encoder.layer.1.attention.output",
        "roberta.encoder.layer.1.output",
        "encoder.layer.1.attention.self.query",
        "intermediate.dense",
    ),
    "distilbert": (
        "distilbert.transformer.layer.1.attention_adapters",
        "transformer.layer.1.output_adapters",
        "distilbert.transformer.layer.1.attention.q_lin",
        "ffn.lin1",
    ),
    "gpt2": (
        "transformer.h.1.attention_adapters",
        "h.1.output_adapters",
        "transformer.h.1.attn.c_attn",
        "mlp.c_fc",
    ),
    "llama": (
        "model.layers.1.attention_adapters",
        "layers.1.output_adapters",
        "model.layers.1.self_attn.q_proj",
        "mlp.up_proj",
    ),
    "t5": (
        "transformer.encoder.block.1.layer.0",
        "encoder.block.1.layer.1",
        "transformer.encoder.block.1.layer.0.SelfAttention.q",
        "layer.1.DenseReluDense.wi",
    ),
    "vit": (
        "vit.encoder.layer.1.attention_adapters",
        "encoder.layer.1.output.output_adapters",
        "vit.encoder.layer.1.attention.attention.query",
        "intermediate.dense",
    ),
}


def lora_keys(parent: str, name: str = "a", parts: int = 1) -> dict[str, tuple[int, ...]]:
    return {f"{parent}.loras.{name}.lora_A": (2 * parts, 8), f"{parent}.loras.{name}.lora_B": (8 * parts, 2)}


def bert(**options: Any) -> dict[str, Tensor]:
    return draw(bottleneck_keys("bert.encoder.layer.0.output", **options))


def test_every_architecture_has_its_table() -> None:
    assert set(KEYS) == set(PLACES)


@pytest.mark.parametrize("architecture", sorted(PLACES))
@pytest.mark.parametrize("binary", [False, True])
def test_bottlenecks(tmp_path: Path, architecture: str, binary: bool) -> None:
    attention, output, *_ = PLACES[architecture]
    tensors = draw(bottleneck_keys(attention) | bottleneck_keys(output))
    write_adapterhub(tmp_path, {**BOTTLENECK, "mh_adapter": True}, tensors, binary=binary, model_type=architecture)
    found = read_adapter(tmp_path, backbone(architecture), "other")
    assert found.name == "other"
    assert isinstance(found.config, BottleneckConfig) and found.config.mh_adapter
    expected = {
        f"1.{site}.{ours}": tensors[f"{parent}.adapters.a.{theirs}"]
        for site, parent in (("attn", attention), ("ffn", output))
        for ours, theirs in (
            ("down.weight", "adapter_down.0.weight"),
            ("down.bias", "adapter_down.0.bias"),
            ("up.weight", "adapter_up.weight"),
            ("up.bias", "adapter_up.bias"),
        )
    }
    assert found.tensors.keys() == expected.keys()
    assert all(found.tensors[name].equal(tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("architecture", sorted(set(PLACES) - {"gpt2"}))
def test_lora(tmp_path: Path, architecture: str) -> None:
    query, feed_forward = PLACES[architecture][2:]
    layer = query[: query.index("1.") + 2]
    tensors = draw(lora_keys(query) | lora_keys(layer + feed_forward))
    write_adapterhub(
        tmp_path,
        {**LORA, "attn_matrices": ["q"], "intermediate_lora": True},
        tensors,
        model_type=architecture,
    )
    found = read_adapter(tmp_path, backbone(architecture)).tensors
    assert set(found) == {"1.attn.q.a", "1.attn.q.b", "1.ffn.in.a", "1.ffn.in.b"}
    assert found["1.attn.q.a"].equal(tensors[f"{query}.loras.a.lora_A"])
    assert found["1.ffn.in.b"].equal(tensors[f"{layer}{feed_forward}.loras.a.lora_B"])


@pytest.mark.parametrize("matrices", [["q", "v"], ["v", "q"], ["k"], ["v", "k", "q"], ["q", "v", "o"]])
def test_lora_on_a_fused_map(tmp_path: Path, matrices: list[str]) -> None:
    """The rows go to q, k, v in this order, whatever the order of the option."""
    acting = [matrix for matrix in "qkv" if matrix in matrices]
    tensors = draw(lora_keys("transformer.h.0.attn.c_attn", parts=len(acting)))
    gate = {
        f"transformer.h.0.attn.c_attn.loras.a.gate.{name}": torch.rand(len(acting), *more)
        for name, more in (("weight", (8,)), ("bias", ()))
    }
    config = {**LORA, "attn_matrices": matrices, "use_gating": True}
    write_adapterhub(tmp_path, config, tensors | gate, model_type="gpt2")
    record = read_adapter(tmp_path, backbone("gpt2", layers=1))
    factor_a, factor_b = tensors.values()
    for index, matrix in enumerate(acting):
        assert record.tensors[f"0.attn.{matrix}.a"].equal(factor_a[2 * index : 2 * index + 2])
        assert record.tensors[f"0.attn.{matrix}.b"].equal(factor_b[8 * index : 8 * index + 8])
        assert record.tensors[f"0.attn.{matrix}.gate.bias"].shape == (1,)
    Adapter("a", record.config, backbone("gpt2", layers=1)).load_tensors(record.tensors)


def test_a_fused_map_that_cannot_be_divided(tmp_path: Path) -> None:
    tensors = {
        "h.0.attn.c_attn.loras.a.lora_A": torch.ones(3, 8),
        "h.0.attn.c_attn.loras.a.lora_B": torch.ones(()),
    }
    write_adapterhub(tmp_path, LORA, tensors, model_type="gpt2")
    with pytest.raises(FileError, match="cannot be divided") as caught:
        read_adapter(tmp_path, backbone("gpt2"))
    assert len(caught.value.problems) == 2


def test_t5_numbers_its_layers_through(tmp_path: Path) -> None:
    parents = {
        "encoder.block.0.layer.0": "0.attn",
        "encoder.block.1.layer.1": "1.ffn",
        "decoder.block.0.layer.0": "2.attn",
        "decoder.block.0.layer.1": "2.cross.attn",
        "decoder.block.1.layer.2": "3.ffn",
    }
    tensors: dict[str, Tensor] = {}
    for parent in parents:
        tensors |= draw(bottleneck_keys(parent))
    write_adapterhub(
        tmp_path / "a", {**BOTTLENECK, "mh_adapter": True, "cross_adapter": True}, tensors, model_type="t5"
    )
    found = read_adapter(tmp_path / "a", backbone("t5")).tensors
    assert {name.rsplit(".", 2)[0] for name in found} == set(parents.values())
    maps = {
        "transformer.decoder.block.1.layer.1.EncDecAttention.v": "3.cross.attn.v",
        "transformer.decoder.block.1.layer.2.DenseReluDense.wi_1": "3.ffn.in",
        "transformer.decoder.block.0.layer.2.DenseReluDense.wo": "2.ffn.out",
    }
    tensors = {}
    for parent in maps:
        tensors |= draw(lora_keys(parent))
    write_adapterhub(tmp_path / "b", {**LORA, "intermediate_lora": True, "output_lora": True}, tensors, model_type="t5")
    found = read_adapter(tmp_path / "b", backbone("t5")).tensors
    assert {name.rsplit(".", 1)[0] for name in found} == set(maps.values())


def test_llama_calls_the_feed_forward_maps_the_other_way_round(tmp_path: Path) -> None:
    """`intermediate_lora` is on the last map there."""
    tensors = draw(lora_keys("model.layers.0.mlp.down_proj"))
    config = {**LORA, "selfattn_lora": False, "intermediate_lora": True, "output_lora": False}
    write_adapterhub(tmp_path, config, tensors, model_type="llama")
    record = read_adapter(tmp_path, backbone("llama", layers=1))
    assert set(record.tensors) == {"0.ffn.out.a", "0.ffn.out.b"}
    Adapter("a", record.config, backbone("llama", layers=1)).load_tensors(record.tensors)


def test_all_parts_of_a_bottleneck(tmp_path: Path) -> None:
    start = "encoder.layer.0.output.adapters.a"
    norm = torch.rand(8)
    tensors = draw(bottleneck_keys("encoder.layer.0.output", index=1)) | {
        f"{start}.adapter_down.0.weight": norm,
        f"{start}.adapter_down.0.bias": norm,
        f"{start}.adapter_norm_before.weight": norm,
        f"{start}.adapter_norm_before.bias": norm,
        f"{start}.adapter_norm_after.weight": norm,
        f"{start}.adapter_norm_after.bias": norm,
        f"{start}.gate.weight": torch.rand(1, 8),
        f"{start}.gate.bias": torch.rand(1),
        f"{start}.scaling": torch.rand(8),
        f"{start}.non_linearity.f.weight": torch.full((1,), 0.25),
        f"{start}.adapter_down.2.f.weight": torch.full((1,), 0.25),
    }
    config = {**BOTTLENECK, "ln_before": True, "ln_after": True, "use_gating": True, "scaling": "channel"}
    config["non_linearity"] = "prelu"
    write_adapterhub(tmp_path, config, tensors, binary=True)
    record = read_adapter(tmp_path, backbone(layers=1))
    Adapter("a", record.config, backbone(layers=1)).load_tensors(record.tensors)
    tensors[f"{start}.adapter_norm_before.weight"] = norm + 1
    write_adapterhub(tmp_path, config, tensors, binary=True)
    with pytest.raises(FileError, match="contradicts another"):
        read_adapter(tmp_path, backbone(layers=1))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({**BOTTLENECK, "phm_layer": True, "phm_dim": 0}, "phm_dim must be"),
        ({**BOTTLENECK, "inv_adapter": "real_nvp"}, "inv_adapter must be"),
        ({**BOTTLENECK, "colour": "red"}, "colour"),
        ({**BOTTLENECK, "scaling": "loud"}, "scaling"),
        ({**BOTTLENECK, "non_linearity": "nothing"}, "non_linearity"),
        ({"mh_adapter": True, "output_adapter": True}, "(?s)'reduction_factor' is missing.*'non_linearity'"),
        ({**LORA, "composition_mode": "scale", "dropout": 0.1}, "(?s)IA3.*of a rank other than 1.*IA3.*dropout"),
        ({**LORA, "composition_mode": "scale", "r": 1, "use_dora": True}, "IA3.*with DoRA"),
        ({**LORA, "composition_mode": "multiply"}, "composition_mode other than 'add' and 'scale'"),
        ({**LORA, "use_dora": True, "composition_mode": "multiply"}, "composition_mode other than"),
        ({**LORA, "vera_d": 0.1, "vera_b": None}, "vera_b must be a finite number"),
        ({**LORA, "init_weights": "magic"}, "init_weights must be"),
        ({**LORA, "dtype": "int8"}, "dtype"),
        ({**LORA, "r": 0}, "r must be"),
        ({**LORA, "architecture": "mtl_lora", "composition_mode": "scale"}, "MTL-LoRA with composition_mode"),
        ({**LORA, "architecture": "mtl_lora", "use_dora": True, "vera_d": 0.1}, "(?s)MTL-LoRA with DoRA.*with VeRA"),
        ({**LORA, "architecture": "mtl_lora", "weights_sharpness": 0}, "weights_sharpness must be"),
        ({"architecture": "prompt_tuning", "combine": "suffix"}, "combine must be"),
        ({"architecture": "union", "configs": []}, "configs must be a list of configs"),
        ({"architecture": "magic"}, "no architecture 'magic'"),
        ({"architecture": ["lora"]}, "no architecture"),
        (None, "'config' is not an object"),
        ("magic", "no method or preset 'magic'"),
    ],
)
def test_options_that_are_refused(tmp_path: Path, config: Any, message: str) -> None:
    write_adapterhub(tmp_path, config, bert())
    with pytest.raises(FileError, match=message) as caught:
        read_adapter(tmp_path, backbone())
    assert "adapter_config.json" in str(caught.value)


def test_options_that_are_read(tmp_path: Path) -> None:
    config = {
        **BOTTLENECK,
        "reduction_factor": {"1": 2.5, "default": 4},
        "leave_out": [0],
        "phm_dim": 4,
        "phm_layer": False,
        "inv_adapter": None,
        "scaling": 2,
        "residual_before_ln": "post_add",
    }
    write_adapterhub(tmp_path, config, bert())
    found = read_adapter(tmp_path, backbone()).config
    assert isinstance(found, BottleneckConfig)
    assert found.size(8, 0) == 2 and found.size(8, 1) == 3
    assert (found.leave_out, found.scaling, found.residual_before_ln) == ((0,), 2.0, "post_add")


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("bert.encoder.layer.7.output.adapters.a.adapter_up.weight", "2 layers, 0 to 1"),
        ("gpt2.h.0.output_adapters.adapters.a.adapter_up.weight", "no such module in a bert"),
        (
            "bert.encoder.layer.0.middle.adapters.a.adapter_up.weight",
            "no adapter, LoRA or fusion can be there",
        ),
        ("bert.encoder.layer.0.output.adapters.b.adapter_up.weight", "belongs to 'b'"),
        ("bert.encoder.layer.0.output.adapters.a.extra.weight", "gives it no 'extra.weight'"),
        ("bert.encoder.layer.0.output.adapters.a.adapter_norm_after.w", "gives it no"),
        ("bert.encoder.layer.0.output.dense.loras.a.lora_A", "one of 'loras'"),
        ("bert.invertible_adapters.a.F.0.weight", "one of 'invertible_adapters'"),
        ("bert.prompt_tuning.prompt_tunings.a.prompt_embedding.weight", "one of 'prompt_tunings'"),
        ("lm_head.weight", "no such module"),
    ],
)
def test_foreign_keys(tmp_path: Path, key: str, message: str) -> None:
    write_adapterhub(tmp_path, BOTTLENECK, {**bert(), key: torch.ones(2), f"{key}.2": torch.ones(2)})
    with pytest.raises(FileError, match=message) as caught:
        read_adapter(tmp_path, backbone())
    assert len(caught.value.problems) == 2 and "adapter.safetensors" in str(caught.value)


def test_another_backbone(tmp_path: Path) -> None:
    write_adapterhub(tmp_path, BOTTLENECK, bert(), hidden_size=16, model_type="roberta")
    with pytest.raises(FileError) as caught:
        read_adapter(tmp_path, backbone())
    assert len(caught.value.problems) == 2
    with pytest.raises(FileError, match="architecture 'mpnet'"):
        read_adapter(tmp_path, backbone("mpnet"))


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=100)
@given(data=st.data())
def test_any_value_of_any_option(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Whatever a config holds: it is read, or a FileError says why not."""
    folder = tmp_path_factory.mktemp("fuzz")
    kind, given_config = data.draw(
        st.sampled_from(
            [
                ("adapter", {**BOTTLENECK, "scaling": 1.0, "leave_out": [], "architecture": None}),
                ("adapter", {**LORA, "dtype": None, "leave_out": []}),
                ("fusion", FUSION),
                ("head", head("classification", use_pooler=False)),
            ]
        )
    )
    config: dict[str, Any] = dict(given_config)
    content: dict[str, Any] = {
        "name": "a",
        "adapter_names": ["a"],
        "version": "adapters.1.3.0",
        "model_type": "bert",
        "hidden_size": 8,
    }
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.sampled_from([content, config]))
        place[data.draw(st.sampled_from(sorted(place)))] = data.draw(JSON)
    write_adapterhub(folder, config, bert(), kind, **content)
    readers: dict[str, Any] = {"adapter": read_adapter, "fusion": read_fusion, "head": read_head}
    with contextlib.suppress(FileError):
        readers[kind](folder, backbone())


def test_missing_weights(tmp_path: Path) -> None:
    write_adapterhub(tmp_path, BOTTLENECK, bert())
    (tmp_path / "adapter.safetensors").unlink()
    with pytest.raises(FileError, match=r"neither adapter\.safetensors nor pytorch_adapter\.bin"):
        read_adapter(tmp_path, backbone())


def test_illegal_names(tmp_path: Path) -> None:
    write_adapterhub(tmp_path, BOTTLENECK, bert(name="sentiment/sst@uk"), name="sentiment/sst@uk")
    with pytest.raises(FileError, match="with name="):
        read_adapter(tmp_path, backbone())
    assert read_adapter(tmp_path, backbone(), "sst").name == "sst"
    with pytest.raises(FileError, match="not a legal"):
        read_adapter(tmp_path, backbone(), "../x")


def test_files_without_a_version(tmp_path: Path) -> None:
    tensors = {key.replace(".adapters.", ".layer_text_task_adapters."): tensor for key, tensor in bert().items()} | {
        key.replace(".adapters.", ".attention_text_lang_adapters."): tensor
        for key, tensor in draw(bottleneck_keys("bert.encoder.layer.0.attention.output")).items()
    }
    config = {
        **BOTTLENECK,
        "non_linearity": "gelu",
        "invertible_adapter": {"block_type": "nice", "reduction_factor": 2},
        "attention_type": "sent-lvl-static",
        "new_attention_norm": False,
    }
    write_adapterhub(tmp_path, config, tensors, version=..., type="text_task")
    record = read_adapter(tmp_path, backbone())
    assert isinstance(record.config, BottleneckConfig) and record.config.non_linearity == "gelu_new"
    assert {name.rsplit(".", 2)[0] for name in record.tensors} == {"0.ffn", "0.attn"}
    write_adapterhub(tmp_path, {**config, "non_linearity": "gelu_orig"}, tensors, version=...)
    record = read_adapter(tmp_path, backbone())
    assert isinstance(record.config, BottleneckConfig) and record.config.non_linearity == "gelu"
    tensors["bert.invertible_lang_adapters.a.F.0.weight"] = torch.ones(2, 4)
    write_adapterhub(tmp_path, {**config, "non_linearity": "relu"}, tensors, version=...)
    record = read_adapter(tmp_path, backbone())
    assert isinstance(record.config, BottleneckConfig)
    assert (record.config.inv_adapter, record.config.inv_adapter_reduction_factor) == ("nice", 2)
    assert torch.equal(record.tensors["-1.embed.first.down.weight"], torch.ones(2, 4))


@pytest.mark.parametrize(
    ("version", "alpha"),
    [
        ("adapters.1.0.1", 2),
        ("adapters.0.2.2", 2),
        ("adapters.1.1.0", 16),
        ("adapters.1.10.0", 16),
        ("3.2.1", 16),
        (..., 16),
    ],
)
def test_the_scaling_of_old_lora(tmp_path: Path, version: Any, alpha: float) -> None:
    tensors = draw(lora_keys("bert.encoder.layer.0.attention.self.query"))
    write_adapterhub(tmp_path, {**LORA, "attn_matrices": ["q"], "alpha": 16}, tensors, version=version)
    found = read_adapter(tmp_path, backbone()).config
    assert isinstance(found, LoraConfig) and found.alpha == alpha


FUSION = {
    "key": True, "query": True, "value": True, "query_before_ln": False, "regularization": True,
    "residual_before": False, "temperature": False, "value_before_softmax": True, "value_initialized": True,
    "dropout_prob": None,
}  # fmt: skip


def fusion_keys(parent: str, name: str = "a,b") -> dict[str, tuple[int, ...]]:
    start = f"{parent}.adapter_fusion_layer.{name}"
    keys: dict[str, tuple[int, ...]] = {f"{start}.value.weight": (8, 8)}
    for matrix in ("query", "key"):
        keys |= {f"{start}.{matrix}.weight": (8, 8), f"{start}.{matrix}.bias": (8,)}
    return keys


def test_fusions(tmp_path: Path) -> None:
    tensors = draw(fusion_keys("bert.encoder.layer.0.output") | fusion_keys("bert.encoder.layer.1.attention.output"))
    # a file with two fusions in it, as AdapterHub writes it for names that begin alike
    more = draw(fusion_keys("bert.encoder.layer.0.output", "a,b,c"))
    write_adapterhub(tmp_path, FUSION, tensors | more, "fusion", name="a,b", adapter_names=["a", "b"])
    found = read_fusion(tmp_path, backbone())
    assert (found.name, found.children) == ("a,b", ("a", "b"))
    assert fusion_sites(found.tensors) == {(0, "ffn"): 8, (1, "attn"): 8}
    assert found.tensors["0.ffn.query.bias"].equal(
        tensors["bert.encoder.layer.0.output.adapter_fusion_layer.a,b.query.bias"]
    )
    assert read_fusion(tmp_path, backbone(), "my.fusion").name == "my.fusion"
    write_adapterhub(tmp_path, FUSION, tensors, "fusion", name="a,b")
    assert read_fusion(tmp_path, backbone()).children == ("a", "b")
    write_adapterhub(tmp_path, "static", tensors, "fusion", name="a,b")
    assert not read_fusion(tmp_path, backbone()).config.value
    write_adapterhub(tmp_path, {**FUSION, "temperature": True}, tensors, "fusion", name="a,b")
    assert read_fusion(tmp_path, backbone()).tensors["1.attn.temperature"] == 1
    for config in ({**FUSION, "colour": 1}, {**FUSION, "key": "yes"}, None):
        write_adapterhub(tmp_path, config, tensors, "fusion", name="a,b")
        with pytest.raises(FileError, match="adapter_fusion_config"):
            read_fusion(tmp_path, backbone())
    other = draw(fusion_keys("bert.encoder.layer.0.output", "b,c"))
    write_adapterhub(tmp_path, FUSION, tensors | other, "fusion", name="a,b")
    with pytest.raises(FileError, match="belongs to 'b,c'"):
        read_fusion(tmp_path, backbone())


def test_fusions_without_matrices(tmp_path: Path) -> None:
    """AdapterHub gives them a map that it never uses."""
    start = "bert.encoder.layer.0.output.adapter_fusion_layer.a,b.dense"
    tensors = draw({f"{start}.weight": (1, 8), f"{start}.bias": (1,)})
    config = {**FUSION, "query": False, "key": False, "value": False}
    write_adapterhub(tmp_path, config, tensors, "fusion", name="a,b")
    found = read_fusion(tmp_path, backbone())
    assert not found.tensors and not found.config.query
    write_adapterhub(tmp_path, FUSION, tensors, "fusion", name="a,b")
    with pytest.raises(FileError, match=r"gives it no 'dense\.weight'"):
        read_fusion(tmp_path, backbone())


def head(head_type: str, **options: Any) -> dict[str, Any]:
    return {
        "head_type": head_type,
        "layers": 1,
        "activation_function": "tanh",
        "num_labels": 2,
        "label2id": {"no": 0, "yes": 1},
        "dropout_prob": None,
        **options,
    }


def test_heads(tmp_path: Path) -> None:
    def read(config: dict[str, Any], architecture: str = "bert", **shapes: tuple[int, ...]) -> Any:
        tensors = draw({f"heads.a.{key[1:].replace('_', '.')}": shape for key, shape in shapes.items()})
        write_adapterhub(tmp_path, config, tensors, "head", binary=True, model_type=architecture)
        return read_head(tmp_path, backbone(architecture), "new")

    found = read(head("classification", layers=2, bias=True, use_pooler=False), _1_weight=(8, 8), _4_bias=(2,))
    assert found.name == "new" and set(found.tensors) == {"dense.0.weight", "out.bias"}
    assert isinstance(found.config, ClassificationConfig) and found.config.labels == ("no", "yes")
    found = read(head("classification", num_labels=1, label2id={"x": 0}), _1_weight=(1, 8))
    assert found.config.problem == "regression"
    found = read(head("multilabel_classification"), _1_weight=(2, 8))
    assert found.config.problem == "multi_label"
    found = read(head("image_classification", multilabel=False), "vit", _1_weight=(2, 8))
    assert isinstance(found.config, ClassificationConfig)
    found = read(head("tagging", label2id={"yes": 1, "no": 0}), "gpt2", _1_bias=(2,))
    assert isinstance(found.config, TaggingConfig) and set(found.tensors) == {"out.bias"}
    config = head("causal_lm", layers=2, layer_norm=True, bias=True, shift_labels=True, vocab_size=11, embedding_size=8)
    del config["num_labels"]
    config["label2id"] = None
    found = read(config, "gpt2", _0_bias=(8,), _2_bias=(8,), _3_weight=(11, 8))
    assert isinstance(found.config, CausalLMConfig)
    assert set(found.tensors) == {"dense.0.bias", "norm.0.bias", "out.weight"}
    found = read(head("question_answering", label2id={"LABEL_0": 0, "LABEL_1": 1}), _1_weight=(2, 8))
    assert isinstance(found.config, QuestionAnsweringConfig) and set(found.tensors) == {"out.weight"}
    with pytest.raises(FileError, match="num_labels=3, but a question_answering head has 2"):
        read(head("question_answering", num_labels=3), _1_weight=(3, 8))
    for head_type in ("dependency_parsing", None):
        with pytest.raises(FileError, match=f"heads of type {head_type!r} are not supported"):
            read(head(head_type), _1_weight=(2, 8))
    with pytest.raises(FileError, match="'colour'"):
        read(head("tagging", colour="red"), _1_weight=(2, 8))
    with pytest.raises(FileError, match="has no place"):
        read(head("tagging"), _2_weight=(2, 8))
    with pytest.raises(FileError, match="ids must be"):
        read(head("tagging", label2id={"a": 0, "b": 5}), _1_weight=(2, 8))


def test_heads_of_names_that_begin_alike(tmp_path: Path) -> None:
    tensors = {"heads.sst.1.weight": torch.ones(2, 8), "heads.sst2.1.weight": torch.ones(3, 8)}
    write_adapterhub(tmp_path, head("tagging"), tensors, "head", name="sst")
    assert read_head(tmp_path, backbone()).tensors["out.weight"].shape == (2, 8)


def test_a_head_in_an_adapter_folder(tmp_path: Path) -> None:
    write_adapterhub(tmp_path, BOTTLENECK, bert())
    write_adapterhub(tmp_path, head("tagging"), {"heads.a.1.weight": torch.ones(2, 8)}, "head")
    found = read_adapter(tmp_path, backbone(), "b")
    assert found.head and found.head.name == "b" and set(found.head.tensors) == {"out.weight"}
    assert read_adapter(tmp_path, backbone(), with_head=False).head is None
    content = {"config": None, "model_class": "BertForMaskedLM", "model_type": "bert", "name": None}
    (tmp_path / "head_config.json").write_text(json.dumps(content))
    with pytest.raises(FileError, match=r"(?s)BertForMaskedLM.*with_head=False"):
        read_adapter(tmp_path, backbone())
    assert read_adapter(tmp_path, backbone(), with_head=False).name == "a"


def test_setups(tmp_path: Path) -> None:
    def single(name: str) -> dict[str, Any]:
        return {"type": "single", "children": [name]}

    def read(setup: Any) -> Any:
        (tmp_path / "adapter_setup.json").write_text(json.dumps({"adapter_setup": setup, "head_setup": None}))
        return read_setup(View(tmp_path))

    fuse = {"type": "Fuse", "children": [single("a"), single("b")]}
    assert read({"type": "Stack", "children": [single("en"), fuse]}) == parse("Stack('en', Fuse('a', 'b'))")
    assert read(single("a")) == "a"
    split = {"type": "BatchSplit", "children": [single("a"), single("b")], "kwargs": {"batch_sizes": [1, 2]}}
    assert read(split) == parse("BatchSplit('a', 'b', sizes=[1, 2])")
    split = {"type": "Split", "children": [single("a"), single("b")], "kwargs": {"splits": 3}}
    assert read(split) == parse("Split('a', 'b', sizes=[3, 3])")
    average = {"type": "Average", "children": [single("a"), single("b")], "kwargs": {"weights": [0.25, 0.75]}}
    assert read(average) == parse("Average('a', 'b', weights=[0.25, 0.75])")
    deep: Any = single("a")
    for _ in range(60):
        deep = {"type": "Stack", "children": [deep]}
    for bad in ({"type": "MultiTask", "children": []}, {"type": "Stack"}, 3, single("../x"), deep):
        with pytest.raises(FileError, match=r"adapter_setup\.json"):
            read(bad)
    with pytest.raises(FileError, match="model="):
        read_composition(tmp_path)
