"""Attaching and detaching: the backbone's modules stay as they are, in any floating-point type."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import compose
from compose.dsl import Fuse, Parallel, Stack
from compose.errors import BackboneError, InputError
from compose.runtime.model import Model
from tests import tiny

ARCHITECTURES = tuple(tiny.CONFIGS)
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
WITH_HEAD = {
    "bert": transformers.AutoModelForSequenceClassification,
    "roberta": transformers.AutoModelForTokenClassification,
    "distilbert": transformers.AutoModelForQuestionAnswering,
    "gpt2": transformers.AutoModelForCausalLM,
    "llama": transformers.AutoModelForCausalLM,
    "t5": transformers.AutoModelForSeq2SeqLM,
    "vit": transformers.AutoModelForImageClassification,
}


def hooks_of(module: nn.Module) -> int:
    return sum(len(getattr(each, kind)) for each in module.modules() for kind in HOOKS)


def with_adapters(architecture: str = "bert", dtype: torch.dtype = torch.float64) -> Model:
    """A model with adapters of two methods, their weights random."""
    model = tiny.model(architecture, dtype=dtype)
    for seed, (name, preset) in enumerate((("a", "seq_bn"), ("b", "double_seq_bn"), ("lora", "lora"))):
        tiny.randomize(model.add_adapter(name, preset), seed)
    tiny.randomize(model.add_fusion(Fuse("a", "b")), 7, 0.1)
    return model


def last(output: Any) -> Tensor:
    found: Tensor = output.last_hidden_state
    return found


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_detach_restores_the_backbone(architecture: str) -> None:
    backbone = tiny.backbone(architecture, dtype=torch.float32)
    for number, parameter in enumerate(backbone.parameters()):
        parameter.requires_grad_(number % 3 != 0)
    flags = {name: parameter.requires_grad for name, parameter in backbone.named_parameters()}
    state = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    modules = {name: (id(module), type(module)) for name, module in backbone.named_modules()}
    attributes = {name: set(vars(module)) for name, module in backbone.named_modules()}
    before = hooks_of(backbone)
    inputs = tiny.inputs(architecture, padded=True, dtype=torch.float32)
    with torch.no_grad():
        plain = last(backbone(**inputs))

    model = compose.attach(backbone)
    assert hooks_of(backbone) > before
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    for name, preset in (("a", "double_seq_bn"), ("b", "lora")):
        tiny.randomize(model.add_adapter(name, preset))
    model.train_only("a", "full+adapters")
    if backbone.supports_gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": True})
    model.train()
    last(model.plan(Parallel("a", Stack("a", "b"))).states(**inputs)).sum().backward()
    model.eval()

    assert model.detach() is backbone
    assert hooks_of(backbone) == before
    assert {name: parameter.requires_grad for name, parameter in backbone.named_parameters()} == flags
    assert {name: (id(module), type(module)) for name, module in backbone.named_modules()} == modules
    after = backbone.state_dict()
    assert after.keys() == state.keys() and all(torch.equal(after[name], state[name]) for name in state)
    if not backbone.supports_gradient_checkpointing:
        assert {name: set(vars(module)) for name, module in backbone.named_modules()} == attributes
    with torch.no_grad():
        assert torch.equal(last(backbone(**inputs)), plain)


def test_a_detached_model_says_so() -> None:
    model = with_adapters()
    plan = model.plan("a")
    model.detach()
    with pytest.raises(BackboneError, match="detached"):
        plan.states(**tiny.inputs())


def test_two_models_on_one_backbone() -> None:
    """Each one's hooks let the other's calls pass."""
    backbone = tiny.backbone()
    first, second = compose.attach(backbone), compose.attach(backbone)
    for model in (first, second):
        for seed, name in enumerate(("lora", "double_seq_bn")):
            tiny.randomize(model.add_adapter(name, name), seed)
    inputs = tiny.inputs(padded=True)
    expected = last(first.plan("lora").states(**inputs)), last(first.plan("double_seq_bn").states(**inputs))
    found = last(second.plan(Parallel("lora", "double_seq_bn")).states(**inputs))
    torch.testing.assert_close(found, torch.cat(expected))
    second.detach()
    assert torch.equal(last(first.plan("lora").states(**inputs)), expected[0])


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["first in first out", "last in first out"])
def test_the_last_of_two_models_thaws_the_backbone(order: tuple[int, int]) -> None:
    backbone = tiny.backbone()
    for number, parameter in enumerate(backbone.parameters()):
        parameter.requires_grad_(number % 3 != 0)
    flags = [parameter.requires_grad for parameter in backbone.parameters()]
    models = [compose.attach(backbone), compose.attach(backbone)]
    models[order[0]].detach()
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    models[order[1]].detach()
    assert [parameter.requires_grad for parameter in backbone.parameters()] == flags
    assert hooks_of(backbone) == 0


def test_attach_without_tokenizer() -> None:
    model = compose.attach(tiny.backbone(dtype=torch.float32))
    model.add_adapter("a")
    model.add_head("a", labels=2)
    assert model.tokenizer is None
    assert model.plan("a")(**tiny.inputs())["a"].logits.shape == (3, 2)
    with pytest.raises(InputError, match="tokenizer"):
        model.plan("a").predict(["a text"])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_model_with_a_head_gives_its_base_model(architecture: str) -> None:
    torch.manual_seed(0)
    whole = WITH_HEAD[architecture].from_config(tiny.CONFIGS[architecture](2)).eval()
    inputs = tiny.inputs(architecture, padded=True, dtype=torch.float32)
    model = compose.attach(whole)
    tiny.randomize(model.add_adapter("a"))
    owned = {id(parameter) for parameter in whole.parameters()}
    assert all(id(parameter) in owned for parameter in model.backbone.parameters())
    plain = last(model.plan(None).states(**inputs))
    assert plain.shape[-1] == model.spec.hidden_size
    assert not torch.equal(last(model.plan("a").states(**inputs)), plain)
    if architecture != "t5":  # whose base model is made of its modules
        assert model.backbone is whole.base_model
        assert torch.equal(last(whole.base_model(**inputs)), plain)
    with torch.no_grad():
        whole(**inputs)  # runs as ever
    model.detach()
    assert hooks_of(whole) == 0


def test_what_is_no_model_of_transformers() -> None:
    with pytest.raises(BackboneError, match="not a transformers model"):
        compose.attach(nn.Linear(2, 2))


def test_half_of_an_encoder_decoder_is_refused() -> None:
    encoder = transformers.T5EncoderModel(tiny.CONFIGS["t5"](1))
    with pytest.raises(BackboneError, match="decoder"):
        compose.attach(encoder)


# copies and pickles


def test_deepcopy_is_independent() -> None:
    model = with_adapters()
    model.add_head("a", labels=2)
    model.activate("a")
    model.train_only("a", "last_layers")
    twin = copy.deepcopy(model)
    inputs = tiny.inputs(padded=True)
    expression = Parallel("a", Fuse("a", "b"), "lora")
    expected = last(model.plan(expression).states(**inputs))
    assert torch.equal(last(twin.plan(expression).states(**inputs)), expected)
    assert torch.equal(twin(**inputs)["a"].logits, model(**inputs)["a"].logits)
    asked = [[name for name, p in each.named_parameters() if p.requires_grad] for each in (model, twin)]
    assert asked[0] == asked[1]
    shared = {p.data_ptr() for p in model.parameters()} & {p.data_ptr() for p in twin.parameters()}
    assert not shared

    tiny.randomize(twin.adapters["a"], 99)
    twin.add_adapter("only", "lora")
    twin.delete_adapter("b")
    assert torch.equal(last(model.plan(expression).states(**inputs)), expected)
    assert "b" in model.adapters and "only" not in model.adapters
    twin.detach()
    assert hooks_of(twin.backbone) == 0
    assert all(parameter.requires_grad for parameter in twin.backbone.parameters())  # as before the first attachment
    assert torch.equal(last(model.plan(expression).states(**inputs)), expected)


def test_a_copy_has_no_hooks_of_any_original() -> None:
    backbone = tiny.backbone()
    first, second = compose.attach(backbone), compose.attach(backbone)
    count = hooks_of(backbone)
    twin = copy.deepcopy(second)
    assert hooks_of(backbone) == count == 2 * hooks_of(twin.backbone)
    twin.detach()
    assert hooks_of(twin.backbone) == 0 and first.hooks.installed and second.hooks.installed


def test_pickling_says_what_to_do_instead(tmp_path: Path) -> None:
    model = with_adapters()
    for pickled in (lambda: pickle.dumps(model), lambda: torch.save(model, tmp_path / "model.pt")):
        with pytest.raises(TypeError, match=r"plan\.save\(folder\), or model\.state_dict\(\)"):
            pickled()
    torch.save(model.state_dict(), tmp_path / "state.pt")
    twin = with_adapters()
    tiny.randomize(twin.adapters["a"], 50)
    twin.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(last(twin.plan("a").states(**tiny.inputs())), last(model.plan("a").states(**tiny.inputs())))


# identity


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_fresh_adapters_change_no_bit(architecture: str, dtype: torch.dtype) -> None:
    """Of no adapters, and of methods whose first increment is zero."""
    backbone = tiny.backbone(architecture, dtype=dtype)
    inputs = tiny.inputs(architecture, padded=True, dtype=dtype)
    with torch.no_grad():
        plain = backbone(**inputs)
    model = compose.attach(backbone)
    model.add_adapter("lora", "lora", attn_matrices=["q", "k", "v", "o"], intermediate_lora=True, output_lora=True)
    model.add_adapter("parallel", "par_bn")
    model.add_adapter("zero", "double_seq_bn", init_weights="mam_adapter")
    for expression in (None, "lora", "parallel", "zero", Stack("lora", "zero", "parallel")):
        with torch.no_grad():
            found = model.plan(expression).states(**inputs)
        assert found.keys() == plain.keys()
        assert torch.equal(last(found), last(plain)), expression
        if "pooler_output" in plain:
            assert torch.equal(found.pooler_output, plain.pooler_output)


# types


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_adapters_take_the_backbones_type(dtype: torch.dtype) -> None:
    model = with_adapters(dtype=dtype)
    head = model.add_head("a", labels=2)
    for module in (model.adapters["a"], model.adapters["lora"], model.fusions["a,b"], head):
        assert {parameter.dtype for parameter in module.parameters()} == {dtype}
    assert model.plan("a")(**tiny.inputs())["a"].logits.dtype == dtype


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_half_precision_backbones(architecture: str, dtype: torch.dtype) -> None:
    full, half = with_adapters(architecture, torch.float32), with_adapters(architecture, dtype)
    expression = Parallel("a", Fuse("a", "b"), Stack("lora", "b"), None)
    for module in (half.adapters["a"], half.adapters["lora"], half.fusions["a,b"]):
        assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}
    with torch.no_grad():
        expected, found = (
            last(model.plan(expression).states(**tiny.inputs(architecture, padded=True, dtype=own)))
            for model, own in ((full, torch.float32), (half, dtype))
        )
    assert found.dtype == dtype
    error = (found.float() - expected).norm() / expected.norm()
    assert error < (0.05 if dtype == torch.bfloat16 else 0.01)
    half.add_head("lora", labels=2, pooling="first")
    assert half.plan("lora")(**tiny.inputs(architecture, dtype=dtype)).pop("lora").logits.dtype == torch.float32


def test_a_saved_half_precision_backbone(tmp_path: Path) -> None:
    tiny.backbone(dtype=torch.float16).save_pretrained(tmp_path)
    model = compose.load(tmp_path)
    assert next(model.backbone.parameters()).dtype == torch.float16  # transformers' default is what was saved
    adapter = model.add_adapter("a", "double_seq_bn")
    head = model.add_head("a", labels=2)
    assert {p.dtype for module in (adapter, head) for p in module.parameters()} == {torch.float32}
    model.train_only("a")
    loss = model.plan("a")(**tiny.inputs(), labels=torch.tensor([0, 1, 1])).loss
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in adapter.parameters())
    assert next(compose.load(tmp_path, dtype=torch.float32).backbone.parameters()).dtype == torch.float32


@pytest.mark.parametrize("convert", ["double", "bfloat16", "half"])
def test_converting_a_model(convert: str) -> None:
    """As `model.half()`: the backbone is converted, the adapters to what is theirs beside it, without loss."""
    model = with_adapters(dtype=torch.float32)
    plan = model.plan(Parallel("a", Fuse("a", "b")))
    expected = last(plan.states(**tiny.inputs()))
    weights = {name: p.detach().clone() for name, p in model.adapters.named_parameters()}
    getattr(model, convert)()
    own = torch.float64 if convert == "double" else torch.float32
    assert {p.dtype for p in model.adapters.parameters()} == {own}
    assert all(torch.equal(p, weights[name].to(own)) for name, p in model.adapters.named_parameters())
    found = last(plan.states(**tiny.inputs()))
    assert found.dtype == getattr(torch, "float64" if convert == "double" else convert.replace("half", "float16"))
    assert (found.double() - expected).norm() / expected.norm() < 0.05
