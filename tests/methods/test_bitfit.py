"""BitFit: differences of biases against a backbone whose biases are changed; sites at LayerNorms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from compose import Average, Drop, Fuse, Parallel, Route, Stack, parse
from compose.errors import CompileError, ConfigError
from compose.runtime.model import Model
from tests import tiny
from tests.methods.shapes import BERT_BASE, adapter

WITHOUT_BIASES = ("llama", "t5")
ALL = tuple(tiny.CONFIGS)


def changed_backbone(model: Model, name: str) -> Any:
    """A copy of the backbone with an adapter's differences in its own biases."""
    other = tiny.model(model.spec.architecture)
    with torch.no_grad():
        for layer in other.hooks.anatomy.layers:
            for sublayer in layer.sublayers:
                modules = [(linear.site, linear.module, linear.fused) for linear in sublayer.linears]
                for site, module, fused in [*modules, (f"{sublayer.name}.norm", sublayer.normed, None)]:
                    difference = model.adapters[name].tensors().get(f"{layer.index}.{site}.bias")
                    if difference is not None:
                        index, parts = fused or (0, 1)
                        module.bias.chunk(parts)[index].add_(difference)
    return other


def states(model: Model, expression: Any, inputs: dict[str, Tensor], **options: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model.plan(expression).states(**inputs, **options).last_hidden_state
    return found


@pytest.mark.parametrize("preset", ["bitfit", "bitfit_partial"])
@pytest.mark.parametrize("architecture", [name for name in ALL if name not in WITHOUT_BIASES])
def test_as_if_the_backbone_had_other_biases(architecture: str, preset: str) -> None:
    model = tiny.model(architecture)
    inputs = tiny.inputs(architecture, padded=True)
    made = model.add_adapter("a", preset)
    assert torch.equal(states(model, "a", inputs), states(model, None, inputs))
    tiny.randomize(made)
    expected = states(changed_backbone(model, "a"), None, inputs)
    torch.testing.assert_close(states(model, "a", inputs), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("architecture", WITHOUT_BIASES)
def test_backbones_without_biases_get_some(architecture: str) -> None:
    model = tiny.model(architecture)
    with pytest.raises(ConfigError, match=r"(?s)none of what its options name has a bias.*everywhere=True"):
        model.add_adapter("a", "bitfit", everywhere=False)
    inputs = tiny.inputs(architecture)
    made = model.add_adapter("a", "bitfit")
    assert made.spec.parts == model.add_adapter("b", "bitfit", everywhere=True).spec.parts
    assert torch.equal(states(model, "a", inputs), states(model, None, inputs))
    tiny.randomize(made)
    own = tiny.backbone(architecture)
    for layer in model.hooks.anatomy.layers:
        for sublayer in layer.sublayers:
            modules = [(linear.site, linear.module) for linear in sublayer.linears]
            for site, module in [*modules, (f"{sublayer.name}.norm", sublayer.normed)]:
                difference = made.tensors()[f"{layer.index}.{site}.bias"]
                path = next(name for name, found in model.backbone.named_modules() if found is module)
                own.get_submodule(path).register_forward_hook(lambda _, __, out, d=difference: out + d)
    with torch.no_grad():
        expected = own(**inputs).last_hidden_state
    torch.testing.assert_close(states(model, "a", inputs), expected, rtol=1e-9, atol=1e-9)


def test_counts_on_bert_base() -> None:
    """A layer has q, k, v, o, ffn.out and two LayerNorms of 768, and ffn.in of 3072."""
    assert sum(part.parameters for part in adapter("bitfit", BERT_BASE).spec.parts) == 12 * (7 * 768 + 3072)
    partial = adapter("bitfit_partial", BERT_BASE)
    assert sum(part.parameters for part in partial.spec.parts) == 12 * (768 + 3072)
    assert {part.site for part in partial.spec.parts} == {"attn.q", "ffn.in"}
    assert sum(parameter.numel() for parameter in partial.parameters()) == 12 * (768 + 3072)
    assert len(adapter("bitfit", BERT_BASE, leave_out=[0], ffn=["norm"]).spec.parts) == 11 * 6


def test_options_that_name_nothing() -> None:
    with pytest.raises(ConfigError, match="no option names a bias"):
        adapter("bitfit", selfattn=[], crossattn=[], ffn=[])
    with pytest.raises(ConfigError, match="legal"):
        adapter("bitfit", ffn=["up"])
    with pytest.raises(ConfigError, match="act nowhere"):
        adapter("bitfit", BERT_BASE, selfattn=[], crossattn=["q"], ffn=[])


def test_it_has_no_increment() -> None:
    model = tiny.model("bert")
    model.add_adapter("a", "bitfit")
    model.add_adapter("b", "seq_bn")
    with pytest.raises(CompileError, match="'a' cannot be fused"):
        model.add_fusion(Fuse("a", "b"))


NORMS = {"selfattn": ["norm"], "crossattn": ["norm"], "ffn": ["norm"], "everywhere": True}


@pytest.mark.parametrize("architecture", ALL)
def test_branches_part_at_layer_norms(architecture: str) -> None:
    model = tiny.model(architecture)
    for seed, name in enumerate(("a", "b")):
        tiny.randomize(model.add_adapter(name, "bitfit", **NORMS), seed)
    tiny.randomize(model.add_adapter("s", "double_seq_bn", bottleneck_size=4, original_ln_after=architecture != "bert"))
    inputs = tiny.inputs(architecture, rows=4, padded=True)
    children = ["a", Stack("a", "s"), Drop("b", first=1), Average("a", "b"), None, "s", Stack("s", Drop("a", last=1))]
    found = states(model, Parallel(*children), inputs).chunk(len(children))
    for child, rows in zip(children, found, strict=True):
        torch.testing.assert_close(rows, states(model, child, inputs), rtol=1e-9, atol=1e-9)
    route = ["a", "b", "a", "b"]
    routed = states(model, Route(a="a", b="b"), inputs, route=route)
    split = states(model, parse("BatchSplit('a', 'b', sizes=[1, 3])"), inputs)
    for row, name in enumerate(route):
        torch.testing.assert_close(routed[row], states(model, name, inputs)[row], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(split[0], states(model, "a", inputs)[0], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(split[1:], states(model, "b", inputs)[1:], rtol=1e-9, atol=1e-9)


def test_the_fork_is_at_the_layer_norm_or_at_the_sub_layers_input() -> None:
    """Post-norm: the attention of the layer runs once; pre-norm: the norm is what the sub-layer reads."""
    only = {**NORMS, "ffn": []}
    for architecture, where in (("bert", (0, "attn.norm")), ("gpt2", (0, ""))):
        model = tiny.model(architecture)
        for name in ("a", "b"):
            model.add_adapter(name, "bitfit", **only)
        explained = model.plan(Parallel("a", "b")).explain()
        assert [(fork.layer, fork.site) for fork in explained.forks] == [where]
        assert "attn.norm: a | b" in str(explained)


def test_it_costs_no_products() -> None:
    model = tiny.model("bert")
    model.add_adapter("a", "bitfit")
    explained, plain = model.plan("a").explain(), model.plan(None).explain()
    assert explained.flops == plain.flops
    assert explained.bytes - plain.bytes == 4 * sum(part.parameters for part in model.adapters["a"].spec.parts)


def test_only_differences_are_trained_and_saved(tmp_path: Path) -> None:
    model = tiny.model("bert")
    before = {name: tensor.clone() for name, tensor in model.backbone.state_dict().items()}
    model.add_adapter("a", "bitfit")
    model.train_only("a")
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    inputs = tiny.inputs("bert")
    optimizer = torch.optim.SGD(trained, 0.1)
    model.plan("a").states(**inputs).last_hidden_state.square().sum().backward()
    assert all(parameter.grad is not None for parameter in trained)
    optimizer.step()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.backbone.state_dict().items())
    model.save_adapter("a", tmp_path / "a")
    model.load_adapter(tmp_path / "a", "b")
    assert torch.equal(states(model, "b", inputs), states(model, "a", inputs))
    assert not torch.equal(states(model, "b", inputs), states(model, None, inputs))
