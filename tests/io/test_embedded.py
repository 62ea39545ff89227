"""Files of what acts on the embeddings: AdapterHub's names, and our own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from compose.errors import FileError
from compose.io import read_adapter
from compose.methods.adapter import Adapter
from compose.methods.bottleneck.spec import BottleneckConfig
from compose.methods.prompt_tuning.spec import PromptTuningConfig
from tests import tiny
from tests.io.folders import backbone, write_adapterhub

BOTTLENECK = {"mh_adapter": False, "output_adapter": True, "reduction_factor": 2, "non_linearity": "relu"}
INVERTED = {"nice": {"F": "first", "G": "second"}, "glow": {"s2": "first", "s1": "second"}}


def theirs(adapter: Adapter, start: str) -> dict[str, Tensor]:
    """An adapter's weights under AdapterHub's names."""
    names = {of: name for kinds in INVERTED.values() for name, of in kinds.items()}
    if isinstance(adapter.config, BottleneckConfig):
        names = {ours: name for name, ours in INVERTED[str(adapter.config.inv_adapter)].items()}
    found = {}
    for key, tensor in adapter.tensors().items():
        layer, site, *rest = key.split(".")
        if site == "embed":
            net, module, leaf = rest
            found[f"{start}.a.{names[net]}.{ {'down': 0, 'activation': '1.f', 'up': 2}[module] }.{leaf}"] = tensor
        else:
            module, leaf = rest
            place = {"down": "adapter_down.0", "activation": "adapter_down.1.f", "up": "adapter_up"}[module]
            found[f"bert.encoder.layer.{layer}.output.adapters.a.{place}.{leaf}"] = tensor
    return found


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("kind", INVERTED)
@pytest.mark.parametrize("non_linearity", ["relu", "prelu"])
def test_invertible_parts(tmp_path: Path, kind: str, non_linearity: str, old: bool) -> None:
    options: Any = {**BOTTLENECK, "non_linearity": non_linearity}
    options |= {"inv_adapter": kind, "inv_adapter_reduction_factor": 2}
    spec = backbone(layers=1)
    adapter = Adapter("a", BottleneckConfig.make(options), spec)
    tiny.randomize(adapter)
    start = "bert.invertible_lang_adapters" if old else "bert.invertible_adapters"
    if non_linearity == "prelu":  # it keeps the activation twice
        write = theirs(adapter, start)
        write = {key: tensor for key, tensor in write.items() if ".adapter_down.1.f." not in key} | {
            key.replace("adapter_down.1.f", "non_linearity.f"): tensor
            for key, tensor in write.items()
            if ".adapter_down.1.f." in key
        }
    else:
        write = theirs(adapter, start)
    write_adapterhub(tmp_path, options, write)
    record = read_adapter(tmp_path, spec, name="z")
    again = Adapter("z", record.config, spec)
    again.load_tensors(record.tensors)
    assert all(torch.equal(again.tensors()[name], tensor) for name, tensor in adapter.tensors().items())
    write_adapterhub(tmp_path, {**options, "inv_adapter": None}, write)
    with pytest.raises(FileError, match="one of 'invertible_adapters'"):
        read_adapter(tmp_path, spec)


def test_prompts(tmp_path: Path) -> None:
    weight = torch.randn(3, 8)
    options = {
        "architecture": "prompt_tuning",
        "prompt_length": 3,
        "prompt_init": "from_string",
        "prompt_init_text": "a b",
        "combine": "prefix_after_bos",
        "init_weights_seed": None,
    }
    for start in ("bert.", ""):
        write_adapterhub(tmp_path, options, {f"{start}prompt_tuning.prompt_tunings.a.prompt_embedding.weight": weight})
        record = read_adapter(tmp_path, backbone(), name="z")
        assert isinstance(record.config, PromptTuningConfig)
        assert record.config.adapterhub_mask and record.config.combine == "prefix_after_bos"
        assert {name: tensor.tolist() for name, tensor in record.tensors.items()} == {
            "-1.embed.weight": weight.tolist()
        }


@pytest.mark.parametrize("preset", ["seq_bn_inv", "prompt_tuning"])
def test_saved_and_loaded_in_a_composition(tmp_path: Path, preset: str) -> None:
    model = tiny.model()
    tiny.randomize(model.add_adapter("a", preset))
    model.add_adapter("b")
    model.plan("Parallel(x='a', y='b')").save(tmp_path / "all")
    other = tiny.model()
    from compose.runtime.attach import load_plan

    plan = load_plan(tmp_path / "all", other)
    with torch.no_grad():
        inputs = tiny.inputs()
        expected = model.plan("Parallel(x='a', y='b')").states(**inputs).last_hidden_state
        assert torch.equal(plan.states(**inputs).last_hidden_state, expected)
    other.plan("Parallel(x='a', y='b')").save(tmp_path / "again")
    for path in sorted((tmp_path / "all").rglob("*.safetensors")):
        assert path.read_bytes() == (tmp_path / "again" / path.relative_to(tmp_path / "all")).read_bytes()
