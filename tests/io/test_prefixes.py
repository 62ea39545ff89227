"""Files of prefixes: AdapterHub's, in which every layer repeats the same tensors, and the native ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from compose.errors import FileError
from compose.io import read_adapter
from compose.io.adapterhub.prefixes import ATTENTIONS, prefix_tensors
from compose.methods.adapter import Adapter
from compose.methods.prefix.spec import PrefixConfig
from compose.runtime.model import Model
from compose.specs import BackboneSpec
from tests import tiny
from tests.io.folders import write_adapterhub

CONFIG = {"architecture": "prefix_tuning", "prefix_length": 3, "bottleneck_size": 4}
LAYERS = {
    "bert": "bert.encoder.layer",
    "roberta": "roberta.encoder.layer",
    "distilbert": "distilbert.transformer.layer",
    "gpt2": "transformer.h",
    "llama": "model.layers",
    "t5": "transformer.decoder.block",
    "vit": "vit.encoder.layer",
}
OPTIONS: dict[str, dict[str, Any]] = {
    "mlp": {},
    "flat": {"flat": True},
    "gated": {"use_gating": True, "shared_gating": False, "leave_out": [0]},
    "prelu": {"non_linearity": "prelu", "encoder_prefix": False, "cross_prefix": False},
}


def spec_of(architecture: str) -> BackboneSpec:
    return tiny.model(architecture).spec


def keys_of(architecture: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """As AdapterHub writes them: under the base model, and all but gates again under every attention."""
    prefix = LAYERS[architecture].partition(".")[0] + "."
    found = {f"{prefix}{key}": tensor for key, tensor in tensors.items()}
    for layer in range(2):
        for module in ATTENTIONS[architecture]:
            for key, tensor in tensors.items():
                if "prefix_gates" not in key:
                    again = key.removeprefix("prefix_tuning.")
                    found[f"{LAYERS[architecture]}.{layer}.{module}.prefix_tuning.pool.{again}"] = tensor.clone()
    return found


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("architecture", LAYERS)
def test_adapterhubs_files(tmp_path: Path, architecture: str, options: dict[str, Any]) -> None:
    """What is written under AdapterHub's keys is read back, under another name too."""
    spec = spec_of(architecture)
    made = Adapter("a", PrefixConfig(prefix_length=3, bottleneck_size=4, **options), spec)
    tiny.randomize(made)
    theirs = prefix_tensors(made.tensors(), spec, made.config, "a")
    content = {**CONFIG, **options}
    write_adapterhub(
        tmp_path, content, keys_of(architecture, theirs), binary=True, model_type=architecture, hidden_size=32
    )
    found = read_adapter(tmp_path, spec, "other")
    assert found.name == "other" and found.config == made.config
    assert found.tensors.keys() == made.tensors().keys()
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in made.tensors().items())


def test_what_each_row_of_the_last_map_means(tmp_path: Path) -> None:
    """First the keys, then the values of the first attention, then those of the next."""
    start = "bert.prefix_tuning.prefix_tunings.a.self_prefix"
    tensors = {
        f"{start}.wte.weight": torch.randn(3, 32),
        f"{start}.control_trans.0.weight": torch.randn(4, 32),
        f"{start}.control_trans.0.bias": torch.randn(4),
        f"{start}.control_trans.2.weight": torch.randn(128, 4),
        f"{start}.control_trans.2.bias": torch.randn(128),
    }
    write_adapterhub(tmp_path, CONFIG, tensors, hidden_size=32)
    model = tiny.model(dtype=torch.float32)
    model.load_adapter(tmp_path)
    hidden = torch.tanh(tensors[f"{start}.wte.weight"] @ tensors[f"{start}.control_trans.0.weight"].T
                        + tensors[f"{start}.control_trans.0.bias"])  # fmt: skip
    made = hidden @ tensors[f"{start}.control_trans.2.weight"].T + tensors[f"{start}.control_trans.2.bias"]
    for layer in range(2):
        key, value = model.adapters["a"].part(layer, "attn.core").states()
        torch.testing.assert_close(torch.cat([key, value], 1), made[:, 64 * layer : 64 * (layer + 1)])


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("bert.encoder.layer.1.attention.self.prefix_tuning.pool.prefix_tunings.a.self_prefix.wte.weight",
         lambda tensor: tensor + 1, "contradicts another"),
        ("bert.prefix_tuning.prefix_tunings.a.cross_prefix.wte.weight", None, "acts at self_prefix"),
        ("bert.prefix_tuning.prefix_tunings.b.self_prefix.wte.weight", None, "belongs to 'b'"),
        ("bert.prefix_tuning.prefix_tunings.a.self_prefix.colour", None, "gives it no 'colour'"),
        ("bert.prefix_tuning.prefix_tunings.a.self_prefix.control_trans", None, "cannot be divided among 2"),
        ("bert.encoder.layer.0.output.adapters.a.adapter_up.bias", None, "belongs to no prefix"),
        ("bert.encoder.layer.0.attention.self.prefix_tuning.prefix_gates.b.bias", None, "belongs to 'b'"),
        ("bert.encoder.layer.9.attention.self.prefix_tuning.prefix_gates.a.bias", None, "does not act there"),
        ("bert.nowhere.prefix_tuning.prefix_gates.a.bias", None, "no such module"),
    ],
)  # fmt: skip
def test_tensors_without_a_place(tmp_path: Path, key: str, change: Any, message: str) -> None:
    spec = spec_of("bert")
    made = Adapter("a", PrefixConfig(prefix_length=3, bottleneck_size=4), spec)
    tensors = keys_of("bert", prefix_tensors(made.tensors(), spec, made.config, "a"))
    tensors[key] = torch.zeros(3) if change is None else change(tensors[key])
    write_adapterhub(tmp_path, CONFIG, tensors, binary=True, hidden_size=32)
    with pytest.raises(FileError, match=message):
        read_adapter(tmp_path, spec)


def test_a_tensor_is_missing(tmp_path: Path) -> None:
    spec = spec_of("bert")
    made = Adapter("a", PrefixConfig(prefix_length=3, bottleneck_size=4), spec)
    tensors = prefix_tensors(made.tensors(), spec, made.config, "a")
    write_adapterhub(
        tmp_path, CONFIG, {key: tensor for key, tensor in tensors.items() if "wte" not in key}, hidden_size=32
    )
    with pytest.raises(FileError, match=r"the weight 'shared.self.embedding' of shape \(3, 32\) is missing"):
        tiny.model().load_adapter(tmp_path)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("architecture", ["bert", "t5"])
def test_native_files(tmp_path: Path, architecture: str, options: dict[str, Any]) -> None:
    """Defect 21: as safetensors, each tensor once; saved, loaded and saved again they are the same bytes."""
    model, inputs = tiny.model(architecture), tiny.inputs(architecture, padded=True)
    made = model.add_adapter("a", "prefix_tuning", prefix_length=3, bottleneck_size=4, **options)
    tiny.randomize(made)
    model.save_adapter("a", tmp_path / "first")
    with safe_open(tmp_path / "first" / "adapter.safetensors", "pt") as file:
        stored = sum(file.get_tensor(key).numel() for key in file.keys())  # noqa: SIM118
    assert stored == sum(p.numel() for p in made.parameters())
    other = tiny.model(architecture)
    other.load_adapter(tmp_path / "first")
    with torch.no_grad():
        found = [each.plan("a").states(**inputs).last_hidden_state for each in (model, other)]
    assert torch.equal(*found)
    other.save_adapter("a", tmp_path / "second")
    for name in ("adapter.safetensors", "adapter.json"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_a_composition(tmp_path: Path) -> None:
    model = tiny.model()
    for seed, (name, preset) in enumerate((("p", "prefix_tuning"), ("q", "prefix_tuning_flat"), ("bn", "seq_bn"))):
        tiny.randomize(model.add_adapter(name, preset), seed)
    plan, inputs = model.plan("Parallel('p', Stack('q', 'bn'))"), tiny.inputs(padded=True)
    plan.save(tmp_path)
    other: Model = tiny.model()
    import compose

    loaded = compose.load_plan(tmp_path, other)
    with torch.no_grad():
        found, expected = (each.states(**inputs).last_hidden_state for each in (loaded, plan))
    assert torch.equal(found, expected)
    assert json.loads((tmp_path / "composition.json").read_text())["expression"]


def test_ejected_prefixes(tmp_path: Path) -> None:
    """AdapterHub makes a prefix flat without saying so in its config, and cannot read the file itself."""
    spec = spec_of("bert")
    made = Adapter("a", PrefixConfig(prefix_length=3, bottleneck_size=4, flat=True), spec)
    tiny.randomize(made)
    theirs = prefix_tensors(made.tensors(), spec, made.config, "a")
    write_adapterhub(tmp_path, {**CONFIG, "flat": False}, keys_of("bert", theirs), binary=True, hidden_size=32)
    found = read_adapter(tmp_path, spec)
    assert found.config == made.config
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in made.tensors().items())
