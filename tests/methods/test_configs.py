"""Options, presets and their errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.activations import ACT2FN

from compose.errors import ConfigError
from compose.methods.bottleneck.spec import NON_LINEARITIES, BottleneckConfig
from compose.methods.fusion.spec import FusionConfig
from compose.methods.fusions import make_fusion_config
from compose.methods.lora.spec import LoraConfig
from compose.methods.presets import PRESETS
from compose.methods.registry import config_from_dict, make_config
from tests.methods.shapes import BERT_BASE, encoder, encoder_decoder

BOTTLENECK = {
    "seq_bn": {"mh": False, "rf": 16, "act": "relu", "before": True},
    "double_seq_bn": {"mh": True, "rf": 16, "act": "swish", "before": False},
    "par_bn": {"mh": False, "rf": 2, "act": "relu", "before": False},
    "adapter_plus": {"mh": False, "rf": 96, "act": "gelu", "before": True},
}


@pytest.mark.parametrize("name", BOTTLENECK)
def test_presets_have_the_defaults_of_adapterhub(name: str) -> None:
    config = make_config(name)
    assert isinstance(config, BottleneckConfig)
    wanted = BOTTLENECK[name]
    assert config.mh_adapter is wanted["mh"] and config.output_adapter and not config.cross_adapter
    assert (config.reduction_factor, config.non_linearity) == (wanted["rf"], wanted["act"])
    assert config.original_ln_before is wanted["before"]
    plus = name == "adapter_plus"
    assert config.original_ln_after is not plus and config.residual_before_ln is not plus
    assert config.stochastic_depth == (0.1 if plus else 0.0)


@pytest.mark.parametrize(
    ("old", "new"),
    [("pfeiffer", "seq_bn"), ("houlsby", "double_seq_bn"), ("parallel", "par_bn"),
     ("scaled_parallel", "scaled_par_bn")],
)  # fmt: skip
def test_old_names_mean_the_same(old: str, new: str) -> None:
    assert make_config(old) == make_config(new)


def test_scaled_parallel_differs_in_its_scaling_only() -> None:
    assert make_config("scaled_par_bn") == make_config("par_bn", scaling="learned")


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_describes_itself_and_survives_json(name: str) -> None:
    config = make_config(name)
    assert config.describe("a", BERT_BASE).parts
    assert config_from_dict(config.method, json.loads(json.dumps(config.to_dict()))) == config
    assert make_config(config) == config and hash(make_config(config)) == hash(config)


options = st.fixed_dictionaries(
    {},
    optional={
        "reduction_factor": st.floats(0.25, 64)
        | st.fixed_dictionaries({"default": st.integers(1, 9)}, optional={"0": st.floats(0.5, 4), 1: st.just(2)}),
        "bottleneck_size": st.none() | st.integers(1, 9),
        "non_linearity": st.sampled_from(NON_LINEARITIES),
        "scaling": st.floats(-4, 4) | st.sampled_from(["learned", "channel"]),
        "residual_before_ln": st.sampled_from([True, False, "post_add"]),
        "leave_out": st.lists(st.integers(0, 3), max_size=3),
        "dropout": st.floats(0, 0.9),
        "init_weights_seed": st.none() | st.integers(0, 9),
    },
)


def test_width_is_said_once() -> None:
    for config in ("seq_bn", "bottleneck", BottleneckConfig()):
        with pytest.raises(ConfigError, match="reduction_factor and bottleneck_size say the same thing"):
            make_config(config, reduction_factor=8, bottleneck_size=4)
        assert make_config(config, bottleneck_size=4).size(64, 0) == 4  # a preset's factor is no one's wish
    saved = make_config("seq_bn", bottleneck_size=4)
    assert make_config(saved, reduction_factor=8, bottleneck_size=None).size(64, 0) == 8
    assert make_config(saved) == saved


@given(options.filter(lambda given: {"reduction_factor", "bottleneck_size"} - {k for k, v in given.items() if v}))
def test_configs_are_their_own_dict(options: dict[str, Any]) -> None:
    config = make_config("seq_bn", **options)
    assert BottleneckConfig.make(json.loads(json.dumps(config.to_dict()))) == config
    hash(config)


def test_all_faults_are_told_at_once_nearest_name_first() -> None:
    with pytest.raises(ConfigError) as caught:
        make_config("seq_bn", reduction_facter=4, non_linearity="rellu", dropout=1.5, scaling="chanel")
    problems = caught.value.problems
    assert len(problems) == 4
    text = str(caught.value)
    assert "legal: 'reduction_factor'" in text and "legal: 'relu'" in text and "legal: 'channel'" in text
    assert "dropout must be a number from 0 to below 1, not 1.5" in text


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("mh_adapter", 1), ("mh_adapter", "yes"), ("reduction_factor", 0), ("reduction_factor", "16"),
        ("reduction_factor", {}), ("reduction_factor", {"first": 2}), ("reduction_factor", {"0": -1}),
        ("reduction_factor", {0: 2, "0": 3}), ("reduction_factor", {True: 2}), ("bottleneck_size", 0),
        ("bottleneck_size", 2.5), ("bottleneck_size", True), ("non_linearity", None), ("init_weights", "ia3"),
        ("init_weights_seed", -1), ("scaling", True), ("scaling", float("nan")), ("scaling", None),
        ("residual_before_ln", "after"), ("leave_out", [-1]), ("leave_out", 3), ("leave_out", "03"),
        ("dropout", -0.1), ("stochastic_depth", 1.0), ("reduction_factor", float("inf")),
    ],
)  # fmt: skip
def test_values_out_of_range_are_refused(option: str, value: object) -> None:
    with pytest.raises(ConfigError, match=option):
        BottleneckConfig(**{option: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("option", "value"),
    [("r", 0), ("alpha", "8"), ("attn_matrices", ["q", "x"]), ("attn_matrices", "qv"),
     ("attn_matrices", ["q", "q"]), ("init_weights", "ia3"), ("crossattn_lora", "no"), ("dropout", 1)],
)  # fmt: skip
def test_lora_values_out_of_range_are_refused(option: str, value: object) -> None:
    with pytest.raises(ConfigError, match=option):
        LoraConfig(**{option: value})  # type: ignore[arg-type]


def test_unknown_names_of_methods_presets_and_fusions() -> None:
    with pytest.raises(ConfigError, match="legal: 'seq_bn'"):
        make_config("seqbn")
    with pytest.raises(ConfigError, match="legal: 'dynamic'"):
        make_fusion_config("dynamc")
    with pytest.raises(ConfigError, match="legal: 'temperature'"):
        make_fusion_config("static", temperatur=True)


def test_options_that_contradict_each_other() -> None:
    with pytest.raises(ConfigError, match="act nowhere"):
        make_config("seq_bn", output_adapter=False)
    with pytest.raises(ConfigError, match="no residual of its own"):
        make_config("par_bn", residual=False)
    with pytest.raises(ConfigError, match="act nowhere"):
        make_config("lora", selfattn_lora=False)
    with pytest.raises(ConfigError, match="act nowhere"):
        make_config("lora", attn_matrices=[])


def test_what_does_not_fit_the_backbone() -> None:
    with pytest.raises(ConfigError, match="leave_out names layers 2, 7, but the backbone has 2, 0 to 1"):
        make_config("seq_bn", leave_out=[0, 7, 2]).describe("a", encoder())
    with pytest.raises(ConfigError, match="leave_out names layer 2"):
        make_config("lora", leave_out=[2]).describe("a", encoder())
    with pytest.raises(ConfigError, match="reduction_factor names layer 5"):
        make_config("seq_bn", reduction_factor={"5": 2, "default": 4}).describe("a", encoder())
    with pytest.raises(ConfigError, match="no value for layer 1"):
        make_config("seq_bn", reduction_factor={"0": 2}).describe("a", encoder())
    with pytest.raises(ConfigError, match="would act nowhere on this bert"):
        make_config("seq_bn", output_adapter=False, cross_adapter=True).describe("a", encoder())
    with pytest.raises(ConfigError, match="would act nowhere"):
        make_config("lora", leave_out=[0, 1]).describe("a", encoder())


def test_sizes() -> None:
    config = make_config("seq_bn", reduction_factor={0: 2, "default": 5, "2": 0.5})
    spec = config.describe("a", encoder(4, 12))
    assert [part.rank for part in spec.parts] == [6, 2, 24, 2]
    assert make_config("seq_bn", reduction_factor=99).describe("a", encoder()).parts[0].rank == 1
    assert make_config("seq_bn", bottleneck_size=7).describe("a", encoder()).parts[0].rank == 7


def test_sites_of_bottlenecks() -> None:
    config = make_config("double_seq_bn", cross_adapter=True, leave_out=[0, 2])
    sites = [(part.layer, part.site) for part in config.describe("a", encoder_decoder()).parts]
    assert sites == [(1, "attn"), (1, "ffn"), (3, "attn"), (3, "cross.attn"), (3, "ffn")]


def test_sites_of_lora() -> None:
    every = {
        "attn_matrices": ["v", "q"],
        "intermediate_lora": True,
        "output_lora": True,
        "leave_out": [0, 1, 2],
    }
    spec = make_config("lora", **every).describe("a", encoder_decoder())
    names = ["attn.q", "attn.v", "cross.attn.q", "cross.attn.v", "ffn.in", "ffn.out"]
    assert [part.site for part in spec.parts] == names
    only = make_config("lora", **every, crossattn_lora=False).describe("a", encoder_decoder())
    assert [part.site for part in only.parts] == names[:2] + names[4:]
    cross = make_config("lora", selfattn_lora=False, crossattn_lora=True).describe("a", encoder_decoder())
    assert {part.site for part in cross.parts} == {"cross.attn.q", "cross.attn.v"}


def test_parts_group_by_what_they_compute_not_by_where_or_how_they_start() -> None:
    def shape(preset: str = "seq_bn", **options: Any) -> tuple[object, ...]:
        return make_config(preset, **options).describe("a", encoder()).parts[0].shape

    assert shape() == shape(init_weights="houlsby", leave_out=[0], bottleneck_size=1, scaling=3)
    for other in ({"bottleneck_size": 2}, {"scaling": "learned"}, {"dropout": 0.1}, {"use_gating": True}):
        assert shape() != shape(**other)  # type: ignore[arg-type]
    assert shape("lora") == shape("lora", alpha=3) != shape("lora", r=4)


def test_closing() -> None:
    assert make_config("seq_bn").describe("a", encoder()).parts[0].closing == "backbone"
    assert make_config("adapter_plus").describe("a", encoder()).parts[0].closing == "adapter"
    assert make_config("lora").describe("a", encoder()).parts[0].closing == "backbone"


def test_activations_are_those_of_transformers() -> None:
    """Of the oldest version that will do: a newer one has more."""
    assert set(NON_LINEARITIES) - {"leakyrelu"} <= set(ACT2FN)


def test_fusion_presets() -> None:
    dynamic, static = make_fusion_config(), make_fusion_config("static")
    assert (dynamic.value, dynamic.regularization, dynamic.value_initialized) == (True, True, True)
    assert (static.value, static.regularization, static.value_initialized) == (False, False, False)
    assert FusionConfig.make(json.loads(json.dumps(static.to_dict()))) == static
    assert make_fusion_config(static, temperature=True).temperature
    spec = static.describe("f", [(0, "ffn")])
    assert (spec.query, spec.key, spec.value, spec.sites) == (True, True, False, {(0, "ffn")})


def test_specs_need_no_torch() -> None:
    code = (
        "import sys, compose.methods.registry, compose.methods.fusion.spec;"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=os.getcwd())


@pytest.mark.parametrize(
    ("method", "option", "value"),
    [
        ("lora", "alpha", 10**400), ("lora", "r", 10**9), ("lora", "init_weights_seed", 2**64),
        ("seq_bn", "bottleneck_size", 2**40), ("seq_bn", "reduction_factor", 1e-320),
        ("seq_bn", "reduction_factor", 1e-9), ("seq_bn", "reduction_factor", {"00": 8, "default": 16}),
        ("seq_bn", "reduction_factor", {"٣": 8, "default": 16}),
        ("seq_bn", "bottleneck_sizes", (1, 2)), ("seq_bn", "bottleneck_sizes", {"00.ffn": 2}),
        ("seq_bn", "bottleneck_sizes", (("0.ffn", 3), ("0.ffn", 4))), ("seq_bn", "bottleneck_sizes", {"0.ffn": 2**40}),
        ("seq_bn_inv", "inv_adapter_reduction_factor", 1e-320), ("prefix_tuning", "prefix_length", 2**40),
        ("prompt_tuning", "prompt_length", 2**40), ("seq_bn", "non_linearity", "relu" * 1000),
        ("prompt_tuning", "random_uniform_scale", 1e308),
        ("lora", "leave_out", range(10**9)), ("loreft", "layers", range(10**9)),
    ],
)  # fmt: skip
def test_absurd_values_are_refused_in_a_few_words(method: str, option: str, value: object) -> None:
    with pytest.raises(ConfigError, match=option) as caught:
        make_config(method, **{option: value})
    assert len(str(caught.value)) < 800


def test_a_number_that_python_does_not_write() -> None:
    with pytest.raises(ConfigError, match="alpha must be a finite number, not such a large int"):
        make_config("lora", alpha=10**5000)


@pytest.mark.parametrize("given", [None, 5, {"method": "lora"}, b"lora"])
def test_what_is_no_method(given: Any) -> None:
    with pytest.raises(ConfigError, match="a method is a name, a config or a list of them, not a"):
        make_config(given)
