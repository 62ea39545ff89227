"""Merged adapters: the same answers from changed weights, and the weights back bit for bit."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import compose
from compose.dsl import Average, BatchSplit, Drop, Expression, Fuse, Parallel, Stack
from compose.errors import BackboneError, CompileError, ConfigError, InputError, RegistryError
from compose.runtime.model import Model
from tests import tiny
from tests.laws.worlds import close

WIDE = {"attn_matrices": ["q", "k", "v", "o"], "intermediate_lora": True, "output_lora": True}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "lora": ("lora", {}),
    "rslora": ("rslora", WIDE),
    "ia3": ("ia3", WIDE),
    "dora": ("dora", WIDE),
    "apart": ("dora", {"scaled_norm": False, "scaled_bias": True, "alpha": 16}),
    "vera": ("vera", WIDE),
    "dvora": ("dvora", {"square": True, **WIDE}),
    "mtl": ("mtl_lora", {"n_up_projection": 2, **WIDE}),
}


def made(architecture: str = "bert", names: Sequence[str] = tuple(METHODS), **options: Any) -> Model:
    model = tiny.model(architecture, **options)
    for seed, name in enumerate(names):
        preset, given = METHODS[name]
        tiny.randomize(model.add_adapter(name, preset, **given), seed)
    return model


def run(model: Model, expression: Expression) -> Tensor:
    architecture = model.spec.architecture
    with torch.no_grad():
        inputs = tiny.inputs(architecture, padded=architecture != "vit")
        return model.plan(expression).states(**inputs).last_hidden_state


def weights(model: Model) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.backbone.named_parameters()}


def same(before: dict[str, Tensor], after: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize("architecture", tiny.CONFIGS)
def test_merged_equals_unmerged(architecture: str) -> None:
    """Also case 11 of the peer's defects: after a reset the weights are what they were, for every method."""
    model = made(architecture)
    before = weights(model)
    expected = {name: run(model, name) for name in METHODS}
    for name in METHODS:
        with model.merge(name):
            assert not same(before, weights(model))
            close(run(model, name), expected[name])
        assert same(before, weights(model))
        assert torch.equal(run(model, name), expected[name])


def test_merged_adapters_act_nowhere_in_the_plan() -> None:
    model = made(names=["lora", "ia3"])
    model.add_head("lora", "classification", labels=2)
    with model.merge("lora"):
        assert not model.plan("lora").plan.programs
        assert model.plan("lora").tasks == ("lora",)  # its head is still found by its name
        assert set(model.plan("lora")(**tiny.inputs()).keys()) == {"lora"}
    assert model.plan("lora").plan.programs


def test_several_merged_one_after_the_other() -> None:
    model = made(names=["ia3", "lora", "vera", "mtl"])
    before = weights(model)
    tiny.randomize(model.add_adapter("bottleneck", "double_seq_bn", bottleneck_size=4), 8)
    cases = [
        Stack("ia3", "lora"),
        Stack("ia3", "lora", "vera"),
        Parallel(Stack("ia3", "lora", "mtl"), Stack("ia3", "lora")),
        Stack("bottleneck", "ia3", "lora", BatchSplit("vera", "mtl", sizes=[1, None])),
    ]
    expected = [run(model, case) for case in cases]
    model.merge("ia3", "lora")
    for case, result in zip(cases, expected, strict=True):
        close(run(model, case), result)
    model.merge("vera")
    close(run(model, cases[1]), expected[1])
    model.unmerge("vera")
    close(run(model, cases[0]), expected[0])
    model.unmerge("ia3")
    close(run(model, "lora"), run_unmerged(model, "lora", before))
    model.unmerge()
    assert same(before, weights(model))
    model.unmerge()  # nothing is merged: nothing happens


def run_unmerged(model: Model, name: str, before: dict[str, Tensor]) -> Tensor:
    model.unmerge()
    assert same(before, weights(model))
    result = run(model, name)
    model.merge(name)
    return result


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        (None, "'ia3' does not act once"),
        ("lora", "'ia3' does not act once"),
        (Stack("lora", "ia3"), "'lora' acts before 'ia3' at the same maps"),
        (Stack("ia3", "lora", "ia3"), "'ia3' does not act once"),
        (Stack("ia3", "dora"), "'dora' reads the backbone's own weights at the maps of 'ia3'"),
        (Parallel("ia3", "lora"), "'ia3' does not act once"),
        (Drop("ia3", first=1), "'ia3' does not act once"),
        (Average("ia3", "lora"), "'ia3' does not act once"),
        (BatchSplit("ia3", "ia3", sizes=[1, None]), "'ia3' does not act once"),
    ],
)
def test_plans_that_would_mean_something_else_are_refused(expression: Expression, why: str) -> None:
    model = made(names=["ia3", "lora", "dora"])
    earlier = model.plan(expression)
    model.merge("ia3")
    for call in (lambda: model.plan(expression)(**tiny.inputs()), lambda: earlier.states(**tiny.inputs())):
        with pytest.raises(CompileError, match=why):
            call()
    model.unmerge()
    earlier.states(**tiny.inputs())


def test_what_cannot_be_merged() -> None:
    model = made(names=["lora", "ia3"])
    model.add_adapter("gated", "lora", use_gating=True)
    model.add_adapter("scaled", "ia3", use_gating=True)
    model.add_adapter("bottleneck", "seq_bn")
    before = weights(model)
    with pytest.raises(ConfigError) as caught:
        model.merge("lora", "gated", "scaled", "bottleneck")
    text = str(caught.value)
    assert text.count("cannot be merged") == 3 and "its gate depends on the input" in text
    assert "bottleneck is no linear map of what it reads" in text
    with pytest.raises(RegistryError, match="there is no adapter 'lore'"):
        model.merge("lore")
    model.merge("lora")
    with pytest.raises(RegistryError, match="'lora' is merged already"):
        model.merge("ia3", "lora")
    with pytest.raises(RegistryError, match="'ia3' is not merged"):
        model.unmerge("ia3")
    model.unmerge()
    assert same(before, weights(model))


def test_dropout_and_training() -> None:
    model = tiny.model()
    tiny.randomize(model.add_adapter("a", "lora", dropout=0.5))
    model.add_head("a", "classification", labels=2)
    model.merge("a")
    model.eval()
    model.plan("a").states(**tiny.inputs())
    model.train()
    with pytest.raises(InputError, match="has dropout and is merged"):
        model.plan("a").states(**tiny.inputs())
    with pytest.raises(BackboneError, match="what is trained would not be what is run"):
        model.train_only("a")
    model.eval()
    assert model.train_only("a", "heads").count
    model.unmerge()
    model.train_only("a", "full+adapters")
    with pytest.raises(BackboneError, match="the backbone is being trained"):
        model.merge("a")


def test_one_backbone_and_several_models() -> None:
    backbone = tiny.backbone()
    one, two = compose.attach(backbone), compose.attach(backbone)
    one.add_adapter("a", "lora")
    with pytest.raises(BackboneError, match="another model is attached"):
        one.merge("a")
    two.detach()
    one.merge("a")
    with pytest.raises(BackboneError, match="would take the merged weights for its own"):
        compose.attach(backbone)
    with pytest.raises(BackboneError, match="could not bring its own weights back"):
        copy.deepcopy(one)


def test_detaching_brings_the_weights_back() -> None:
    model = made(names=["dora"])
    before = weights(model)
    model.merge("dora")
    assert not same(before, weights(model))
    model.detach()
    assert same(before, weights(model))


def test_files_are_as_without_merging(tmp_path: Path) -> None:
    model = made(names=["dora"])
    model.save_adapter("dora", tmp_path / "apart")
    with model.merge("dora"):
        model.save_adapter("dora", tmp_path / "merged")
        model.load_adapter(tmp_path / "apart", name="again")  # its backbone is still known
    for file in ("adapter.json", "adapter.safetensors"):
        assert (tmp_path / "apart" / file).read_bytes() == (tmp_path / "merged" / file).read_bytes()


def test_moving_a_merged_model() -> None:
    model = made(names=["dora"], dtype=torch.float32)
    expected = weights(model)
    model.merge("dora")
    model.to(torch.float64)
    model.unmerge()
    assert all(torch.equal(value.double(), weights(model)[name]) for name, value in expected.items())


def test_fused_with_nothing_left_over() -> None:
    """Fusions and grouped siblings after a merged adapter read what the weights now give."""
    model = made("gpt2", ["lora", "vera", "mtl"])
    fuse = Fuse("vera", "mtl")
    tiny.randomize(model.add_fusion(fuse), 3, 0.2)
    expected = run(model, Stack("lora", fuse))
    with model.merge("lora"):
        close(run(model, Stack("lora", fuse)), expected)


def test_adapters_that_are_merged_cannot_be_deleted() -> None:
    """Another adapter of that name would be taken for the one in the weights."""
    model = made(names=["lora"])
    model.merge("lora")
    with pytest.raises(RegistryError, match="the adapter 'lora' is merged into the backbone's weights"):
        model.delete_adapter("lora")
    model.unmerge()
    model.delete_adapter("lora")


@pytest.mark.parametrize("architecture", ["bert", "gpt2"])
@pytest.mark.parametrize("preset", ["dora", "dvora"])
def test_a_fresh_dora_starts_from_the_backbones_own_weights(architecture: str, preset: str) -> None:
    model = made(architecture, ["ia3"])
    model.merge("ia3")
    model.add_adapter("fresh", preset, **WIDE)
    model.add_adapter("union", [preset, "seq_bn"])
    model.unmerge()
    model.add_adapter("after", preset, **WIDE)
    assert torch.equal(run(model, "fresh"), run(model, None))
    for key, value in model.adapters["after"].tensors().items():
        if key.endswith("magnitude"):
            assert torch.equal(model.adapters["fresh"].tensors()[key], value)


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "llama"])
def test_a_union_of_linear_methods(architecture: str) -> None:
    model = made(architecture, ["lora"])
    members = [{"method": "lora", "r": 2}, "ia3", {"method": "dora", "attn_matrices": ["v", "o"]}]
    tiny.randomize(model.add_adapter("union", members))
    model.add_adapter("mixed", ["lora", "seq_bn"])
    before, expression = weights(model), Stack("union", "lora")
    expected = run(model, expression)
    with model.merge("union"):
        close(run(model, expression), expected)
    assert same(before, weights(model))
    with pytest.raises(ConfigError, match="'mixed' cannot be merged"):
        model.merge("mixed")


def test_what_is_masked_is_not_merged() -> None:
    model = made(names=["lora"])
    compose.sparsify(model, "lora", 0.5)
    with torch.no_grad():
        for parameter in model.adapters["lora"].parameters():  # as momentum from before would move it
            parameter.add_(0.1)
    twin = copy.deepcopy(model)
    model.merge("lora")
    close(run(model, "lora"), run(twin, "lora"))
