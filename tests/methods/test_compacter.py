"""Compacter: its maps against Kronecker products, what is shared, files, fusion."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from compose import Fuse, Parallel
from compose.errors import ConfigError, FileError
from compose.methods.compacter.module import PhmLinear
from compose.methods.registry import make_config
from tests import tiny
from tests.methods.shapes import adapter, encoder, first_part, randomised

BOTH = (True, False)
RULES: list[dict[str, Any]] = [{"shared_phm_rule": a, "factorized_phm_rule": b} for a in BOTH for b in BOTH]
WEIGHTS: list[dict[str, Any]] = [
    {"shared_W_phm": a, "factorized_phm_W": b, "phm_rank": 2} for a in BOTH for b in BOTH
]  # fmt: skip


def product(tensors: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    """Matrices that lie whole or as factors under a name."""
    if f"{name}.whole" in tensors:
        return tensors[f"{name}.whole"]
    return tensors[f"{name}.left"] @ tensors[f"{name}.right"]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("weight", WEIGHTS)
def test_a_map_is_a_sum_of_kronecker_products(rule: dict[str, Any], weight: dict[str, Any]) -> None:
    torch.manual_seed(0)
    made = randomised(adapter("compacter", encoder(1), bottleneck_size=8, phm_dim=2, **rule, **weight))
    part: Any = first_part(made)
    tensors = made.tensors()
    for direction, size in (("down", (12, 8)), ("up", (8, 12))):
        own = f"0.{made.spec.parts[0].site}.{direction}"
        rules = product(tensors, "shared.rule" if rule["shared_phm_rule"] else f"{own}.rule")
        weights = product(tensors, f"shared.{direction}" if weight["shared_W_phm"] else f"{own}.factors")
        wanted = torch.stack([torch.kron(a, b) for a, b in zip(rules, weights, strict=True)]).sum(0)
        mapped: PhmLinear = getattr(part, direction)
        assert wanted.shape == size
        torch.testing.assert_close(mapped.weight, wanted.T)
        x = torch.randn(3, size[0], dtype=torch.float64)
        torch.testing.assert_close(mapped(x), x @ wanted + tensors[f"{own}.bias"])
    own_parameters = sum(at.parameters for at in made.spec.parts)
    assert sum(p.numel() for p in made.parameters()) == made.spec.shared_parameters + own_parameters


def test_rules_that_are_not_learned_are_kept_and_saved() -> None:
    made = adapter("compacter++", encoder(1), bottleneck_size=4, learn_phm=False)
    assert "shared.rule.whole" in made.tensors() and made.spec.shared_parameters == 0
    assert not any("rule" in name for name, _ in made.named_parameters())
    other = adapter("compacter++", encoder(1), bottleneck_size=4, learn_phm=False)
    other.load_tensors(made.tensors())
    assert torch.equal(other.tensors()["shared.rule.whole"], made.tensors()["shared.rule.whole"])


def test_how_weights_start() -> None:
    options: dict[str, Any] = {"bottleneck_size": 64, "phm_dim": 4, "init_weights_seed": 3}
    spec = encoder(1, 256)
    made = adapter("compacter++", spec, **options).tensors()
    assert 0.5e-4 < float(made["shared.rule.whole"].std()) < 2e-4
    left = made["0.ffn.down.factors.left"]
    assert left.shape == (4, 64, 1) and float(left.abs().max()) <= (6 / 65) ** 0.5
    again = adapter("compacter++", spec, **options).tensors()
    assert all(torch.equal(tensor, again[name]) for name, tensor in made.items())
    wide = adapter("compacter++", spec, phm_c_init="uniform", phm_init_range=0.5, **options).tensors()
    assert 0.3 < float(wide["shared.rule.whole"].abs().max()) <= 0.5
    narrow = adapter("compacter++", spec, hypercomplex_nonlinearity="normal", **options).tensors()
    assert float(narrow["0.ffn.down.factors.left"].abs().max()) < 1e-3


def test_sizes_that_cannot_be_divided_are_named_at_once() -> None:
    assert {part.rank for part in adapter("compacter", encoder(1), reduction_factor=2, phm_dim=4).spec.parts} == {8}
    with pytest.raises(ConfigError) as caught:
        adapter("compacter++", encoder(1), bottleneck_size=6, phm_dim=5)
    assert "states of width 12" in str(caught.value) and "the bottleneck of width 6" in str(caught.value)
    with pytest.raises(ConfigError, match="one width"):
        make_config("compacter", shared_W_phm=True, reduction_factor={"default": 4, "1": 2})


@pytest.mark.parametrize("options", [{}, {"shared_W_phm": True, "phm_bias": False}, {"shared_phm_rule": False}])
def test_files_of_compacters(tmp_path: Path, options: dict[str, Any]) -> None:
    model = tiny.model("bert")
    tiny.randomize(model.add_adapter("a", "compacter", bottleneck_size=4, phm_dim=4, **options))
    inputs = tiny.inputs("bert")
    expected = model.plan("a").states(**inputs).last_hidden_state
    model.save_adapter("a", tmp_path / "a")
    model.load_adapter(tmp_path / "a", "b")
    torch.testing.assert_close(model.plan("b").states(**inputs).last_hidden_state, expected, rtol=0, atol=0)


def test_a_file_without_the_shared_rule_is_refused(tmp_path: Path) -> None:
    options = {"mh_adapter": False, "output_adapter": True, "reduction_factor": 4, "non_linearity": "relu"}
    config = {**options, "phm_layer": True, "shared_phm_rule": True}
    content = {"config": config, "hidden_size": 32, "model_type": "bert", "name": "a", "version": "adapters.1.0.0"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(content))
    shapes = {"adapter_down.0.W_left": (4, 8, 1), "adapter_down.0.W_right": (4, 1, 2), "adapter_down.0.b": (8,)}
    shapes |= {"adapter_up.W_left": (4, 2, 1), "adapter_up.W_right": (4, 1, 8), "adapter_up.b": (32,)}
    tensors = {
        f"bert.encoder.layer.{layer}.output.adapters.a.{name}": torch.ones(shape)
        for layer in range(2)
        for name, shape in shapes.items()
    }
    save_file(tensors, tmp_path / "adapter.safetensors")
    model = tiny.model("bert")
    with pytest.raises(FileError, match="shared_phm_rule=True, but it holds no such weights"):
        model.load_adapter(tmp_path)
    assert not model.adapters
    save_file({**tensors, "bert.shared_parameters.a.phm_rule": torch.ones(4, 4, 4)}, tmp_path / "adapter.safetensors")
    assert model.load_adapter(tmp_path) == "a"


def test_a_fusion_weighs_what_the_maps_make() -> None:
    """Folded and plain fusions agree, and the folded one notices when a shared rule has changed."""
    model = tiny.model("bert")
    for seed, name in enumerate(("a", "b")):
        made = model.add_adapter(name, "compacter++", bottleneck_size=4 + 4 * seed, phm_bias=bool(seed))
        tiny.randomize(made, seed, 1.0)
    tiny.randomize(model.add_fusion(Fuse("a", "b")), 3)
    inputs = tiny.inputs("bert")
    for _ in range(2):
        with torch.no_grad():
            found = model.plan(Fuse("a", "b")).states(**inputs).last_hidden_state
            plain = model.plan(Fuse("a", "b"), ("fold",)).states(**inputs).last_hidden_state
            torch.testing.assert_close(found, plain, rtol=1e-9, atol=1e-9)
            model.adapters["a"].shared.rule.whole.mul_(-2.0)


def test_siblings_run_as_one_grouped_product() -> None:
    model = tiny.model("bert")
    for seed, name in enumerate(("a", "b")):
        made = model.add_adapter(name, "compacter++", bottleneck_size=4, phm_dim=2 + 2 * seed, phm_bias=False)
        tiny.randomize(made, seed, 1.0)
    plan = model.plan(Parallel("a", "b"))
    assert any(operation.group >= 0 for operation in plan.plan.graph.operations)
    inputs = tiny.inputs("bert")
    found = plan.states(**inputs).last_hidden_state.chunk(2)
    for name, rows in zip(("a", "b"), found, strict=True):
        torch.testing.assert_close(rows, model.plan(name).states(**inputs).last_hidden_state)


def test_rules_are_trained_once_for_all_maps() -> None:
    model = tiny.model("bert")
    tiny.randomize(model.add_adapter("a", "compacter", bottleneck_size=4))
    model.train_only("a")
    model.plan("a").states(**tiny.inputs("bert")).last_hidden_state.square().sum().backward()
    rules = [parameter for name, parameter in model.named_parameters() if "rule" in name]
    assert len(rules) == 1 and rules[0].grad is not None and bool(rules[0].grad.any())
    assert sum("rule" in name for name in model.state_dict()) == 1
