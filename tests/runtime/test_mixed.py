"""Mixtures of methods that the laws found wrong, each by itself."""

from __future__ import annotations

import pytest
import torch

from compose.dsl import Average, BatchSplit, Expression, Fuse, Parallel, Route, Split, Stack
from compose.errors import CompileError
from compose.runtime.model import Model
from tests import tiny
from tests.laws.worlds import close, states

MADE = {
    "a": ("seq_bn", {"bottleneck_size": 4}),
    "b": ("seq_bn", {"bottleneck_size": 5}),
    "plus": ("adapter_plus", {"bottleneck_size": 4}),  # it closes its site itself
    "reft": ("loreft", {"r": 2, "prefix_positions": 2, "suffix_positions": 2}),
    "no": ("loreft", {"r": 2, "prefix_positions": 2, "suffix_positions": 2}),
    "three": ("prompt_tuning", {"prompt_length": 3}),
    "five": ("prompt_tuning", {"prompt_length": 5, "combine": "prefix_after_bos"}),
    "flat": ("prefix_tuning_flat", {"prefix_length": 4}),
    "lora": ("lora", {"r": 2}),
    "full": ("lora", {"r": 3}),
    "union": ("union", {"configs": ["lora", {"method": "dora", "r": 2}]}),
}
ROUTE = {"route": ["t", "u", "t"]}


def model_of(architecture: str = "bert") -> Model:
    model = tiny.model(architecture)
    for seed, (name, (preset, options)) in enumerate(MADE.items()):
        tiny.randomize(model.add_adapter(name, preset, **options), seed)
    return model


def rows_are(model: Model, mixed: Expression, alone: list[Expression], **route: list[str]) -> None:
    """Each row of an expression is what another makes of it."""
    inputs = tiny.inputs(model.spec.architecture)
    found = states(model.plan(mixed), inputs, **route)
    for row, expression in enumerate(alone):
        expected = states(model.plan(expression), {name: tensor[[row]] for name, tensor in inputs.items()})[0]
        close(found[row, : len(expected)], expected)


@pytest.mark.parametrize("architecture", ["bert", "gpt2"])
def test_pieces_close_as_what_acted_on_them(architecture: str) -> None:
    """Whatever closes the others, before and after."""
    model = model_of(architecture)
    rows_are(model, Stack("plus", Route(t="a", u=None)), [Stack("plus", "a"), "plus"], **ROUTE)
    rows_are(model, Stack(Route(t="plus", u="a"), "b"), [Stack("plus", "b"), Stack("a", "b")], **ROUTE)
    rows_are(model, Stack(Route(t="plus", u="a"), Route(t=None, u="b")), ["plus", Stack("a", "b")], **ROUTE)
    rows_are(model, Stack("plus", BatchSplit("a", None, sizes=[1, None])), [Stack("plus", "a"), "plus", "plus"])
    nested = Stack(BatchSplit("plus", BatchSplit("plus", "a", sizes=[1, 1]), sizes=[1, 2]), "lora")
    rows_are(model, nested, [Stack("plus", "lora"), Stack("plus", "lora"), Stack("a", "lora")])


def test_pieces_of_other_sizes_that_close_differently_are_refused() -> None:
    model = model_of()
    unlike = Stack(Split("plus", "a", sizes=[2, None]), Split("b", None, sizes=[3, None]))
    with pytest.raises(CompileError, match="the pieces before this Split close layer 0, site 'ffn' differently"):
        model.plan(unlike)
    with pytest.raises(CompileError, match="the children of this Average close"):
        model.plan(Average(Route(t="plus", u="a"), "plus"))


@pytest.mark.parametrize("architecture", ["bert", "llama", "t5"])
def test_reft_counts_each_row_s_own_tokens_under_prompts(architecture: str) -> None:
    """Of several lengths: branches, routes and groups of one shape; padding on the left, and a prompt behind it."""
    model = model_of(architecture)
    parallel = Parallel(Stack("three", "reft"), Stack("five", "no"), Stack("lora", "reft"), Stack("three", "no"))
    inputs = tiny.inputs(architecture, padded=True)
    left = {**inputs, "attention_mask": inputs["attention_mask"].flip(1)}
    for given in (inputs, left):
        found = states(model.plan(parallel), given).chunk(4)
        for rows, branch in zip(found, parallel.children, strict=True):
            expected = states(model.plan(branch), given)
            close(rows[:, : expected.shape[1]], expected)
    rows_are(model, Stack("reft", Route(t="three", u="five")), [Stack("reft", "three"), Stack("reft", "five")], **ROUTE)


def test_reft_passes_over_padding_before_a_prompt() -> None:
    """Where the first token is padding, a prompt comes after it, and ReFT's first tokens are the prompt's."""
    model = model_of("llama")
    ids = tiny.inputs("llama", rows=1)["input_ids"]
    mask = torch.ones(1, ids.shape[1] + 1, dtype=torch.long)
    mask[:, 0] = 0
    padded = {"input_ids": torch.cat([ids[:, :1], ids], dim=1), "attention_mask": mask}
    front = model.add_adapter("front", "prompt_tuning", prompt_length=5)
    front.load_tensors(model.adapters["five"].tensors())
    found = states(model.plan(Stack("five", "reft")), padded)
    close(found[:, 1:], states(model.plan(Stack("front", "reft")), {"input_ids": ids}), 1e-6)  # RMSNorm is in float32


def test_an_average_of_prefixes_that_counts_nothing() -> None:
    model, inputs = model_of(), tiny.inputs()
    nothing = Average("flat", "flat", weights=[0, 0], normalize=False)
    close(states(model.plan(nothing), inputs), states(model.plan(None), inputs))
    close(states(model.plan(Stack("flat", nothing)), inputs), states(model.plan("flat"), inputs))


def test_what_an_average_counts_for_nothing_does_not_run() -> None:
    model, inputs = model_of(), tiny.inputs()
    split = Split(Average("flat", weights=[0], normalize=False), "a", sizes=[2, None])
    close(states(model.plan(split), inputs), states(model.plan(Split(None, "a", sizes=[2, None])), inputs))
    close(states(model.plan(Average("plus", None, weights=[1, 0])), inputs), states(model.plan("plus"), inputs))
    assert "lora" not in str(model.plan(Average("lora", "a", weights=[0, 1])).plan.graph.operations)


def test_an_invertible_part_in_a_split_beside_layer_aggregation() -> None:
    """The embeddings run apart there, as they do for prompts, but no row is longer for it."""
    model, inputs = model_of(), tiny.inputs(padded=True)
    for name, preset in (("nice", "seq_bn_inv"), ("layers", "layer_aggregation")):
        tiny.randomize(model.add_adapter(name, preset), 7)
    split = Split("nice", None, sizes=[3, None])
    found = states(model.plan(Parallel(split, Stack(split, "layers"))), inputs).chunk(2)
    close(found[0], states(model.plan(split), inputs))
    close(found[1], states(model.plan(Stack(split, "layers")), inputs))


def test_a_union_with_dora_in_several_branches() -> None:
    """Its siblings run as a group, which hands on what DoRA reads of the map."""
    model, inputs = model_of(), tiny.inputs()
    parallel = Parallel(Stack("lora", "union"), Stack("full", "union"))
    for rows, branch in zip(states(model.plan(parallel), inputs).chunk(2), parallel.children, strict=True):
        close(rows, states(model.plan(branch), inputs))


def test_fuse_is_still_refused_for_what_closes_differently() -> None:
    model = model_of()
    model.add_fusion(Fuse("a", "b", name="f"))
    with pytest.raises(CompileError, match="the children of this Fuse close"):
        model.plan(Fuse("a", "plus", name="f"))
