"""Prefixes in a running model: attention functions, copies, threads, checkpointing, compiled code, detaching."""

from __future__ import annotations

import copy
import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import compose
from compose.dsl import Average, BatchSplit, Drop, Expression, Parallel, Route, Stack
from compose.errors import BackboneError
from compose.runtime.attention import NAME, CoreConfig, attend
from compose.runtime.model import Model
from tests import tiny
from tests.laws.worlds import close

ADAPTERS: dict[str, tuple[str, dict[str, Any]]] = {
    "long": ("prefix_tuning", {"prefix_length": 5, "bottleneck_size": 6}),
    "short": ("prefix_tuning_flat", {"prefix_length": 2}),
    "gated": ("prefix_tuning", {"prefix_length": 3, "bottleneck_size": 4, "use_gating": True, "leave_out": [0]}),
    "bn": ("seq_bn", {"bottleneck_size": 4}),
    "lora": ("lora", {"r": 2}),
}
EVERYTHING = Parallel(
    "long",
    "short",
    None,
    Stack("short", "bn", "long"),
    BatchSplit("long", Stack("lora", "short"), sizes=[1, None]),
    drop=Drop("long", first=1),
    average=Average("long", "long", weights=[1, 3]),
    gated=Stack("bn", "gated"),
)


def model_of(architecture: str = "bert", layers: int = 2, dtype: torch.dtype = torch.float64, **options: Any) -> Model:
    return adapted(tiny.model(architecture, layers, dtype, **options))


def adapted(model: Model) -> Model:
    for seed, (name, (preset, given)) in enumerate(ADAPTERS.items()):
        tiny.randomize(model.add_adapter(name, preset, **given), seed)
    return model


def states(model: Model, expression: Expression, inputs: dict[str, Tensor], **options: Any) -> Tensor:
    found: Tensor = model.plan(expression).states(**inputs, **options).last_hidden_state
    return found


def configs_of(backbone: nn.Module) -> dict[str, int]:
    return {name: id(module.config) for name, module in backbone.named_modules() if hasattr(module, "config")}


@torch.no_grad()
@pytest.mark.parametrize("architecture", tiny.CONFIGS)
def test_attention_implementations_agree(architecture: str) -> None:
    """What is computed does not depend on the backbone's attention function."""
    found = []
    for implementation in ("eager", "sdpa"):
        model = model_of(architecture, attn_implementation=implementation)
        for padded in (False, True):
            found.append(states(model, EVERYTHING, tiny.inputs(architecture, padded=padded)))
    tolerance = 1e-5 if architecture in ("llama", "vit") else 1e-9  # their eager softmax is in float32
    close(found[0], found[2], tolerance)
    close(found[1], found[3], tolerance)


@torch.no_grad()
@pytest.mark.parametrize("architecture", tiny.CONFIGS)
def test_every_prefix_is_seen(architecture: str) -> None:
    """AdapterHub's prefixes have no effect on GPT-2 and LLaMA."""
    model, inputs = model_of(architecture), tiny.inputs(architecture)
    plain = states(model, None, inputs)
    for name in ("long", "short", "gated"):
        assert (states(model, name, inputs) - plain).abs().max() > 1e-3


@torch.no_grad()
def test_a_prefix_that_is_dropped() -> None:
    """Where a compiler pass does not take it out, nothing is put before the tokens."""
    model, inputs = model_of(), tiny.inputs(padded=True)
    plan = model.plan(Drop("long", first=2), ["drop"])
    assert plan.plan.programs
    close(plan.states(**inputs).last_hidden_state, states(model, None, inputs))


@torch.no_grad()
def test_an_attention_without_a_mask_for_each_pair() -> None:
    model, inputs = model_of(), tiny.inputs()
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(BackboneError, match="prefixes cannot act in the attention implementation 'flash_attention_2'"):
        states(model, "long", inputs)
    model.config._attn_implementation = "sdpa"
    states(model, "long", inputs)


@torch.no_grad()
def test_an_attention_that_calls_no_function() -> None:
    """What bypasses transformers' registry says so; nothing falls through in silence."""
    model, inputs = model_of(), tiny.inputs()
    module = model.backbone.encoder.layer[1].attention.self
    module.config = module.config.original  # as in modules that choose their function elsewhere
    with pytest.raises(BackboneError, match="BertSelfAttention does not call transformers' attention functions"):
        states(model, "long", inputs)


@torch.no_grad()
@pytest.mark.parametrize("architecture", tiny.CONFIGS)
def test_detaching(architecture: str) -> None:
    """Configurations, and what is registered, are as before; without prefixes not a bit differs."""
    backbone = tiny.backbone(architecture)
    registered, before = dict(ALL_ATTENTION_FUNCTIONS), configs_of(backbone)
    inputs = tiny.inputs(architecture, padded=True)
    plain, implementation = backbone(**inputs).last_hidden_state, backbone.config._attn_implementation
    model = adapted(compose.attach(backbone))
    assert backbone.config._attn_implementation == implementation
    states(model, EVERYTHING, inputs)
    assert torch.equal(states(model, None, inputs), plain)
    assert torch.equal(backbone(**inputs).last_hidden_state, plain)
    model.detach()
    assert configs_of(backbone) == before
    assert dict(ALL_ATTENTION_FUNCTIONS) == registered and registered[NAME] is attend
    assert torch.equal(backbone(**inputs).last_hidden_state, plain)


@torch.no_grad()
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_two_models_on_one_backbone(order: tuple[int, int]) -> None:
    backbone = tiny.backbone()
    before = configs_of(backbone)
    models = adapted(compose.attach(backbone)), adapted(compose.attach(backbone))
    tiny.randomize(models[1].adapters["long"], 20)
    inputs = tiny.inputs(padded=True)
    expected = [states(model, EVERYTHING, inputs) for model in models]
    assert not torch.allclose(*expected)
    first, second = order
    models[first].detach()
    assert configs_of(backbone) != before
    assert torch.equal(states(models[second], EVERYTHING, inputs), expected[second])
    models[second].detach()
    assert configs_of(backbone) == before


@torch.no_grad()
def test_copies() -> None:
    model, inputs = model_of(), tiny.inputs(padded=True)
    expected = states(model, EVERYTHING, inputs)
    bare = copy.deepcopy(model.backbone)
    assert not any(isinstance(getattr(module, "config", None), CoreConfig) for module in bare.modules())
    twin = copy.deepcopy(model)
    tiny.randomize(model.adapters["long"], 20)
    assert torch.equal(states(twin, EVERYTHING, inputs), expected)
    model.detach()
    assert torch.equal(states(twin, EVERYTHING, inputs), expected)


@torch.no_grad()
def test_attentions_have_columns_for_virtual_tokens() -> None:
    model, inputs = model_of(attn_implementation="eager"), tiny.inputs(padded=True)
    for name, tokens in (("long", 5), ("short", 2), (None, 0)):
        found = model.plan(name).states(**inputs, output_attentions=True).attentions
        assert [each.shape[-1] for each in found] == [7 + tokens] * 2
        torch.testing.assert_close(found[0].sum(-1), torch.ones_like(found[0].sum(-1)))


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    """Prefixes stay in float32 and are cast at the attention."""
    model, whole = model_of(dtype=dtype), model_of(dtype=torch.float32)
    inputs = tiny.inputs(padded=True)
    assert {p.dtype for p in model.adapters["long"].parameters()} == {torch.float32}
    found = states(model, EVERYTHING, inputs)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), states(whole, EVERYTHING, inputs), atol=0.05, rtol=0.05)


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["bert", "gpt2", "llama", "vit"])
def test_above_a_trunk(architecture: str) -> None:
    model, inputs = model_of(architecture, 4), tiny.inputs(architecture, padded=True)
    plan = model.plan(Parallel(Drop("long", first=2), Drop(Stack("short", "bn"), first=3)))
    trunk = plan.trunk_states(**inputs)
    assert trunk.depth == 2
    found = plan.states(**inputs, trunk_states=trunk).last_hidden_state
    close(found, plan.states(**inputs).last_hidden_state)


@torch.no_grad()
def test_threads() -> None:
    model, inputs = model_of(), tiny.inputs(padded=True)
    chosen: list[Expression] = ["long", "short", None, EVERYTHING, Stack("short", "long"), "bn"]
    expected = [states(model, expression, inputs) for expression in chosen]
    wrong: list[int] = []

    def run(number: int) -> None:
        with torch.no_grad():
            for call in range(40):
                index = (number + call) % len(chosen)
                if not torch.allclose(states(model, chosen[index], inputs), expected[index], atol=1e-9):
                    wrong.append(index)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("architecture", ["bert", "gpt2", "t5"])
def test_gradient_checkpointing(architecture: str, reentrant: bool) -> None:
    """The same gradients, of the MLP that all layers have in common too, though backward runs on another thread."""
    model, inputs = model_of(architecture), tiny.inputs(architecture, padded=True)
    model.train()
    expression = Parallel("long", Stack("short", "gated"), None)
    model.train_only(expression, "adapters")
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert any("shared" in name for name in trained)

    def gradients() -> dict[str, Tensor]:
        loss = states(model, expression, inputs).pow(2).sum()
        states(model, "short", inputs)
        thread = threading.Thread(target=loss.backward)
        thread.start()
        thread.join()
        found = {name: p.grad.clone() for name, p in trained.items() if p.grad is not None}
        model.zero_grad()
        return found

    expected = gradients()
    assert expected.keys() == trained.keys()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    found = gradients()
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        close(found[name], gradient)


def test_training_equals_single_runs() -> None:
    """P2: rows of several prefixes in one batch have the gradients of batches of their own."""
    model, inputs = model_of(), tiny.inputs(padded=True)
    model.train_only(Parallel("long", "short"), "adapters")
    trained = [p for name in ("long", "short") for p in model.adapters[name].parameters()]
    mixed = states(model, Route(x="long", y="short"), inputs, route=["x", "y", "x"])
    found = torch.autograd.grad(mixed.pow(2).sum(), trained)
    alone = states(model, "long", inputs)[[0, 2]].pow(2).sum() + states(model, "short", inputs)[1].pow(2).sum()
    for left, right in zip(found, torch.autograd.grad(alone, trained), strict=True):
        close(left, right)


@pytest.mark.parametrize("architecture", ["bert", "gpt2"])
def test_compiled(architecture: str) -> None:
    """Without a break, and traced once."""
    torch.compiler.reset()
    model = tiny.model(architecture, 1, torch.float32)
    for seed, name in enumerate(("long", "short")):
        tiny.randomize(model.add_adapter(name, ADAPTERS[name][0], **ADAPTERS[name][1]), seed)
    plan = model.plan(Parallel(None, BatchSplit("long", "short", sizes=[1, None])))
    compiled = torch.compile(plan.states, fullgraph=True, backend="eager")
    with torch.no_grad():
        for seed in (0, 1):
            inputs = tiny.inputs(architecture, padded=True, seed=seed, dtype=torch.float32)
            with torch.compiler.set_stance("fail_on_recompile" if seed else "default"):
                found = compiled(**inputs).last_hidden_state
            expected = plan.states(**inputs).last_hidden_state
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch.compiler.reset()


@torch.no_grad()
def test_an_average_in_which_nothing_counts() -> None:
    model, inputs = model_of(), tiny.inputs()
    nothing = Average("long", "short", weights=[0, 0], normalize=False)
    close(states(model, nothing, inputs), states(model, None, inputs))
    close(states(model, Stack("short", nothing), inputs), states(model, "short", inputs))
    assert model.plan(nothing).explain(rows=2, tokens=4).flops


@torch.no_grad()
def test_where_prefixes_of_a_stack_stand() -> None:
    """The later one before the earlier, as in AdapterHub: T5 tells how far a key is from a query."""
    model, inputs = model_of("t5"), tiny.inputs("t5", padded=True)
    joined = model.add_adapter("joined", "prefix_tuning_flat", prefix_length=7)
    for name, tensor in joined.tensors().items():
        layer, site = name.removesuffix(".flat").split(".", 1)
        parts = (model.adapters[each].part(int(layer), site) for each in ("long", "short"))
        tensor.copy_(torch.stack([torch.cat(pair) for pair in zip(*(part.states() for part in parts), strict=True)]))
    close(states(model, Stack("short", "long"), inputs), states(model, "joined", inputs))
    assert not torch.allclose(states(model, Stack("long", "short"), inputs), states(model, "joined", inputs))


@torch.no_grad()
def test_prefixes_before_some_of_unequal_lengths() -> None:
    """Padding stays in front of all virtual tokens of a row."""
    model, inputs = model_of("t5"), tiny.inputs("t5", padded=True)
    found = states(model, Stack(BatchSplit("long", "short", sizes=[1, None]), "short"), inputs)
    alone = [states(model, Stack(first, "short"), inputs) for first in ("long", "short")]
    close(found, torch.cat([alone[0][:1], alone[1][1:]]))
    average = Average("short", "short")
    close(states(model, Stack(BatchSplit("long", "short", sizes=[1, None]), average), inputs), found)
