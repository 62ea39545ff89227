"""The site `layer` in a running backbone: where ReFT's changes go, and all that hooks on a layer's output touch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from compose.dsl import Average, BatchSplit, Drop, Expression, Fuse, Parallel, Stack, branches
from compose.errors import InputError
from compose.methods.part import Context
from compose.methods.row_tokens import RowTokens
from compose.runtime.model import Model
from tests import tiny
from tests.laws.worlds import close

LAYERS = 3
EVERYTHING = Parallel(
    "a",
    "b",
    Fuse("a", "b"),
    None,
    BatchSplit("a", "middle", sizes=[1, None]),
    stack=Stack("x", "middle", "a"),
    drop=Drop("a", first=2),
    average=Average("a", "b", weights=[1, 3]),
)


def model_of(architecture: str = "bert", dtype: torch.dtype = torch.float64, layers: int = LAYERS) -> Model:
    model = tiny.model(architecture, layers, dtype)
    for seed, (name, preset, options) in enumerate(
        (
            ("a", "loreft", {"r": 2, "prefix_positions": 2, "suffix_positions": 2}),
            ("b", "noreft", {"r": 2, "prefix_positions": 2, "suffix_positions": 2}),
            ("middle", "direft", {"layers": [layers // 2]}),
            ("x", "seq_bn", {}),
        )
    ):
        tiny.randomize(model.add_adapter(name, preset, dropout=0.0, **options), seed, 0.2)
    tiny.randomize(model.add_fusion(Fuse("a", "b")), 7, 0.2)
    return model


def states(model: Model, expression: Expression, inputs: dict[str, Tensor], **options: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model.plan(expression).states(**inputs, **options).last_hidden_state
    return found


@contextmanager
def by_hand(model: Model, name: str, masks: dict[str, Tensor | None]) -> Iterator[Any]:
    """The backbone with an adapter put in by hooks of our own."""
    handles = []
    for layer in model.hooks.anatomy.layers:

        def hook(module: Any, args: Any, output: Any, index: int = layer.index, stack: str = layer.stack) -> Any:
            y = output[0] if isinstance(output, tuple) else output
            tokens = RowTokens.of(y.shape[0], y.shape[1], y.device, masks.get(stack))
            result = model.adapters[name].part(index, "layer")(y, Context(row_tokens=tokens))
            return (result, *output[1:]) if isinstance(output, tuple) else result

        handles.append(layer.layer.register_forward_hook(hook, prepend=True))
    try:
        yield model.backbone
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("padded", [False, True], ids=["unpadded", "padded"])
@pytest.mark.parametrize("architecture", tiny.CONFIGS)
def test_equals_hooks_by_hand(architecture: str, padded: bool) -> None:
    """All hidden states, the last one among them; an encoder-decoder's stacks have masks of their own."""
    model, inputs = model_of(architecture), tiny.inputs(architecture, padded=padded)
    masks = {"encoder": inputs.get("attention_mask"), "decoder": inputs.get("attention_mask")}
    if architecture == "t5" and padded:
        masks["decoder"] = inputs["decoder_attention_mask"] = inputs["attention_mask"].flip(1)[:, 2:]
    elif architecture == "t5":
        masks["decoder"] = None
    with torch.no_grad():
        with by_hand(model, "a", masks) as backbone:
            expected = backbone(**inputs, output_hidden_states=True)
        found = model.plan("a").states(**inputs, output_hidden_states=True)
    # Before transformers 5.10, T5 itself gives NaN for a token of a decoder that sees nothing.
    equal = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-9, equal_nan=True)
    equal(found.last_hidden_state, expected.last_hidden_state)
    kinds = ("hidden_states",) if architecture != "t5" else ("encoder_hidden_states", "decoder_hidden_states")
    for kind in kinds:
        assert len(found[kind]) == LAYERS + 1
        for own, theirs in zip(found[kind], expected[kind], strict=True):
            equal(own, theirs)


@pytest.mark.parametrize("architecture", tiny.CONFIGS)
def test_every_composition_at_once(architecture: str) -> None:
    model, inputs = model_of(architecture), tiny.inputs(architecture, padded=True)
    found = states(model, EVERYTHING, inputs).chunk(8)
    for branch, rows in zip(branches(EVERYTHING), found, strict=True):
        close(rows, states(model, branch.expression, inputs))


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "vit"])
def test_branches_part_at_the_end_of_a_layer(architecture: str) -> None:
    """Before and after normalisation alike, the layer that branches differ at runs once for all."""
    model, inputs = model_of(architecture), tiny.inputs(architecture)
    plan, rows = model.plan(Parallel("middle", Drop("b", first=1), None)), len(next(iter(inputs.values())))
    ran: list[int] = []
    for layer in model.hooks.anatomy.layers:
        layer.layer.register_forward_pre_hook(lambda _, args, kwargs: ran.append(len(args[0])), with_kwargs=True)
    with torch.no_grad():
        plan.states(**inputs)
    assert ran == [rows, rows, 3 * rows]
    found = plan.explain(rows=rows, tokens=7)
    assert [(fork.layer, fork.site) for fork in found.forks] == [(1, "layer")]
    assert "layer" in str(found)


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "llama"])
def test_the_trunk_ends_where_it_acts(architecture: str) -> None:
    model, inputs = model_of(architecture), tiny.inputs(architecture, padded=True)
    for expression, depth in ((Drop("a", first=2), 2), ("middle", 1), (Parallel("middle", None), 1)):
        plan = model.plan(expression)
        assert plan.trunk == depth
        close(
            states(model, expression, inputs, trunk_states=plan.trunk_states(**inputs)),
            states(model, plan.expression, inputs),
        )


def test_layers_are_aggregated_after_it() -> None:
    """What aggregation is given of a layer is what the next layer is given."""
    model, inputs = model_of(), tiny.inputs(padded=True)
    tiny.randomize(model.add_adapter("all", "layer_aggregation", dropout=0.0), 3)
    expression = Parallel(Stack("a", "all"), Stack("middle", "all"), x="all", y="b")
    found = states(model, expression, inputs).chunk(4)
    for branch, rows in zip(branches(expression), found, strict=True):
        close(rows, states(model, branch.expression, inputs))


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("architecture", ["bert", "gpt2", "t5"])
def test_gradient_checkpointing(architecture: str, reentrant: bool) -> None:
    """A recomputation knows the padding of its own call."""
    expression = Parallel(Stack("a", "middle"), Fuse("a", "b"), "x")

    def gradients(checkpointed: bool) -> dict[str, Tensor]:
        model = model_of(architecture)
        model.train()
        if checkpointed:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        plan = model.plan(expression)
        losses = [
            plan.states(**tiny.inputs(architecture, padded=padded)).last_hidden_state.square().mean()
            for padded in (True, False)
        ]
        for loss in losses:
            loss.backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    expected, found = gradients(False), gradients(True)
    assert found.keys() == expected.keys() and any("layer" in name for name in found)
    for name, gradient in expected.items():
        close(found[name], gradient, 1e-6 if architecture == "t5" else 1e-9)


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_a_token_after_a_cache_is_none_of_the_first(architecture: str) -> None:
    model = model_of(architecture)
    model.add_adapter("first", "loreft", r=2, prefix_positions=3)
    for masked in (False, True):
        inputs = tiny.inputs(architecture, padded=False)
        if masked:
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        whole = states(model, "first", inputs)
        cache = DynamicCache(config=model.config)
        found = []
        for start, stop in ((0, 2), (2, 5), (5, 6), (6, 7)):
            piece = {"input_ids": inputs["input_ids"][:, start:stop]}
            if masked:
                piece["attention_mask"] = inputs["attention_mask"][:, :stop]
            found.append(states(model, "first", piece, past_key_values=cache, use_cache=True))
        close(torch.cat(found, dim=1), whole, 1e-6)


def test_compiled() -> None:
    """One trace serves batches of all sizes; the first and last tokens are those of each call."""
    torch.compiler.reset()
    model, expression = model_of(dtype=torch.float32, layers=1), Parallel("a", Fuse("a", "b"))
    fast = model.plan(expression).optimize(backend="eager")
    for rows, tokens, seed in ((3, 7, 0), (4, 9, 1)):
        inputs = tiny.inputs("bert", rows, tokens, padded=True, seed=seed, dtype=torch.float32)
        with torch.compiler.set_stance("fail_on_recompile" if seed else "default"):
            found = fast.states(**inputs).last_hidden_state
        torch.testing.assert_close(found, states(model, expression, inputs), rtol=1e-4, atol=1e-5)
    torch.compiler.reset()


def test_in_bf16() -> None:
    """Adapters compute in float32 there; tokens that are not acted on keep their bits."""
    model = tiny.model("bert", 1, torch.bfloat16)
    tiny.randomize(model.add_adapter("a", "loreft", prefix_positions=2, suffix_positions=1), 1)
    inputs = tiny.inputs(padded=False)
    found, plain = states(model, "a", inputs), states(model, None, inputs)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found[:, 2:-1], plain[:, 2:-1])
    assert not torch.equal(found[:, :2], plain[:, :2]) and not torch.equal(found[:, -1], plain[:, -1])


def test_masks_that_do_not_say_which_tokens_are_there() -> None:
    model, inputs = model_of(), tiny.inputs()
    inputs["attention_mask"] = torch.ones(3, 1, 7, 7)
    with pytest.raises(InputError, match=r"attention_mask is \[3, 1, 7, 7\], but ReFT has to know"):
        model.plan("a").states(**inputs)
    assert states(model, "x", inputs).isfinite().all()
