"""Defects on decoders, among them Gemma 2 and Mistral, whose modules a table describes that is passed in."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import AutoModel, Gemma2Config, MistralConfig

from compose.backbones.decoders import LLAMA
from compose.dsl import BatchSplit, Expression, Parallel, Route, Stack
from compose.runtime.attach import attach
from compose.runtime.model import Model
from tests import tiny
from tests.defects.cases import batch, differ, filled, out
from tests.laws.worlds import close

SIZES = {
    "vocab_size": tiny.VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
STEPS = 6


def mistral() -> Model:
    """A tiny Mistral; its modules are called as LLaMA's."""
    torch.manual_seed(0)
    return attach(AutoModel.from_config(MistralConfig(**SIZES)).double().eval(), table=LLAMA)


def gemma2() -> Model:
    """A tiny Gemma 2, which has a norm before and one after each sub-layer."""
    [stack] = LLAMA.stacks
    attention, feed_forward = stack.sublayers
    sublayers = (
        replace(attention, value="post_attention_layernorm"),
        replace(feed_forward, value="post_feedforward_layernorm", residual="pre_feedforward_layernorm"),
    )
    torch.manual_seed(0)
    backbone = AutoModel.from_config(Gemma2Config(**SIZES, head_dim=8)).double().eval()
    return attach(backbone, table=replace(LLAMA, stacks=(replace(stack, sublayers=sublayers),)))


def decoder(architecture: str) -> Model:
    """A tiny decoder."""
    return mistral() if architecture == "mistral" else tiny.model(architecture)


def prompts(left: int) -> tuple[Tensor, Tensor]:
    """Two rows of five tokens and their mask; the second begins with some of padding."""
    ids = torch.arange(3, 13).reshape(2, 5)
    mask = torch.ones_like(ids)
    mask[1, :left] = 0
    return ids, mask


def greedy(made: Model, expression: Expression, ids: Tensor, mask: Tensor, **route: list[str]) -> Tensor:
    """The likeliest next tokens of each row, step by step with a key/value cache."""
    words = made.backbone.get_input_embeddings().weight
    plan, cache, chosen = made.plan(expression), None, []
    for _ in range(STEPS):
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        given = {"input_ids": ids, "attention_mask": mask, "position_ids": positions, "past_key_values": cache}
        with torch.no_grad():
            step = plan.states(**given, use_cache=True, **route)
            ids = (step.last_hidden_state[:, -1:] @ words.T).argmax(-1)
        cache, mask = step.past_key_values, torch.cat([mask, torch.ones_like(ids)], 1)
        chosen.append(ids)
    return torch.cat(chosen, 1)


@pytest.mark.parametrize("left", [0, 2])
@pytest.mark.parametrize("method", ["seq_bn", "lora"])
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "mistral"])
def test_rows_that_are_continued(architecture: str, method: str, left: int) -> None:
    """Case 15: with a cache, a mask and padding each row goes on as with its own adapter alone, as beams too would."""
    made = filled(decoder(architecture), a=method, b=method)
    ids, mask = prompts(left)
    single = {name: greedy(made, name, ids, mask) for name in ("a", "b")}
    assert not torch.equal(single["a"], single["b"])
    found = greedy(made, BatchSplit("a", "b", sizes=[1, None]), ids, mask)
    assert torch.equal(found, torch.stack([single["a"][0], single["b"][1]]))
    twice = torch.arange(2).repeat_interleave(2)
    found = greedy(made, Route(a="a", b="b"), ids[twice], mask[twice], route=["a", "b", "b", "a"])
    assert torch.equal(found, torch.stack([single[name][row] for name, row in zip("abba", twice, strict=True)]))


@pytest.mark.parametrize("left", [0, 2])
@pytest.mark.parametrize("method", ["seq_bn", "lora"])
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "mistral"])
def test_branches_that_are_continued(architecture: str, method: str, left: int) -> None:
    """Case 15: in Parallel each branch scores a continuation, read with a cache, as its own adapter does alone."""
    made = filled(decoder(architecture), a=method, b=method)
    ids, mask = prompts(left)
    ids, mask = torch.cat([ids, ids.flip(1) + 20], 1), torch.cat([mask, torch.ones_like(mask)], 1)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    whole = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
    plan = made.plan(Parallel("a", "b"))
    with torch.no_grad():
        first = plan.states(**{name: value[:, :5] for name, value in whole.items()}, use_cache=True)
        rest = {"input_ids": ids[:, 5:], "attention_mask": mask, "position_ids": positions[:, 5:]}
        found = plan.states(**rest, past_key_values=first.past_key_values, use_cache=True).last_hidden_state
    for name, rows in zip(("a", "b"), found.chunk(2), strict=True):
        close(rows, out(made, name, whole)[:, 5:])


def test_norms_around_a_sublayer() -> None:
    """Case 12: on Gemma 2, whose norm after the feed-forward block the last layer's took the place of."""
    made = filled(gemma2(), a="seq_bn")
    first, last = made.backbone.layers
    seen: list[Tensor] = []
    first.register_forward_hook(
        lambda module, args, output: seen.append(output[0] if isinstance(output, tuple) else output)
    )
    before = out(made, "a")
    with torch.no_grad():
        last.post_feedforward_layernorm.weight += 5.0
    assert differ(out(made, "a"), before)
    assert torch.equal(*seen)


def test_nested_where_the_outermost_block_is_another() -> None:
    """Case F6: on Gemma 2 a Parallel runs, deeper down too, as on architectures that have a table."""
    made = filled(gemma2(), a="seq_bn", b="double_seq_bn", c="lora")
    inputs = batch(padded=True)
    for expression in (Stack(Parallel("a", "b")), Stack("c", Parallel("a", "b"))):
        one, other = (Stack(*expression.children[:-1], name) for name in ("a", "b"))
        first, second = out(made, expression, inputs).chunk(2)
        close(first, out(made, one, inputs))
        close(second, out(made, other, inputs))
