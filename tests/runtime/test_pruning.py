"""Fusions of fewer children: what is measured, what is kept, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import compose
from compose.dsl import BatchSplit, Fuse, Parallel, Split, Stack
from compose.errors import ComposeError, ConfigError, ExpressionError, InputError, RegistryError
from compose.runtime.model import Model
from compose.runtime.pruning import prune_fusion
from tests import tiny
from tests.heads import texts

WHOLE = Fuse("a", "b", "c", "d")


def fused(architecture: str = "bert", fuse: Fuse = WHOLE, kind: str = "dynamic") -> Model:
    model = tiny.model(architecture, 2)
    for seed, name in enumerate("abcd"):
        options: dict[str, Any] = {"leave_out": [0]} if name == "d" else {}
        tiny.randomize(model.add_adapter(name, "seq_bn", bottleneck_size=4, **options), seed)
    tiny.randomize(model.add_fusion(fuse, kind), 3)
    return model


def states(model: Model, expression: Any, batch: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        found: Tensor = model.plan(expression).states(**batch).last_hidden_state
    return found


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "t5", "vit"])
def test_the_strongest_are_kept_with_the_same_weights(architecture: str) -> None:
    model = fused(architecture)
    first, second = (tiny.inputs(architecture, 3, 7, padded=architecture != "vit", seed=seed) for seed in (0, 1))
    found = prune_fusion(model, WHOLE, keep=2, data=[first, second])
    # the mean over real tokens, by hand
    means = torch.zeros(4, dtype=torch.float64)
    sites = 0
    sums: dict[Any, Tensor] = {}
    tokens: dict[Any, int] = {}
    for batch in (first, second):
        for layer, at in model.plan(WHOLE).fusion_attention(**batch)["a,b,c,d"].items():
            decodes = architecture == "t5" and layer >= 2
            mask = batch.get("decoder_attention_mask" if decodes else "attention_mask")
            for site, weights in at.items():
                real = torch.ones(weights.shape[:2]) if mask is None else mask
                assert weights.shape[-1] == (3 if layer == 0 else 4)
                sums[layer, site] = sums.get((layer, site), 0) + weights[real.bool()].sum(0)
                tokens[layer, site] = tokens.get((layer, site), 0) + int(real.sum())
    for row in found.rows:
        share = sums[row.layer, row.site] / tokens[row.layer, row.site]
        torch.testing.assert_close(torch.tensor(list(row.shares.values()), dtype=torch.float64), share)
        means[: len(share)] += share
        sites += 1
    torch.testing.assert_close(torch.tensor(found.mean, dtype=torch.float64), means / sites)
    assert found.kept == tuple(sorted(means.argsort(descending=True)[:2].tolist()))
    left = Fuse(*(WHOLE.children[place] for place in found.kept))
    assert found.fuse == left
    ours, theirs = model.fusions[",".join(left.children)], model.fusions["a,b,c,d"]  # type: ignore[arg-type]
    assert all(torch.equal(tensor, theirs.tensors()[name]) for name, tensor in ours.tensors().items())
    # the same as the whole fusion's weights over fewer children
    same = Fuse(*left.children, name="a,b,c,d")
    assert torch.equal(states(model, found.fuse, first), states(model, same, first))
    again = prune_fusion(model, "a,b,c,d", keep=2, data=[first, second], into="again")
    assert (again.kept, again.mean, again.rows) == (found.kept, found.mean, found.rows)
    assert "kept" in str(again)


@pytest.mark.parametrize("kind", ["scalearn", "scalearn_uniform++"])
def test_scales_go_with_their_children(kind: str) -> None:
    model = fused(kind=kind)
    with torch.no_grad():
        for part in model.fusions["a,b,c,d"].parts.values():
            part.scales[1] = 0.0
            part.scales[2] = -9.0
    batch = tiny.inputs("bert", 3, 7)
    found = prune_fusion(model, WHOLE, keep=3, data=[batch])
    assert found.fuse == Fuse("a", "c", "d")  # what counts nothing goes, and a negative scale counts
    wanted = states(model, WHOLE, batch)
    torch.testing.assert_close(states(model, found.fuse, batch), wanted, rtol=1e-9, atol=1e-9)


def test_children_of_several_adapters_and_the_expression_around() -> None:
    fuse = Fuse(Stack("a", "b"), None, "c", name="f")
    model = fused(fuse=fuse)
    batch = tiny.inputs("bert", 3, 7, padded=True)
    alone = prune_fusion(model, fuse, keep=2, data=[batch], into="g")
    around = prune_fusion(model, fuse, keep=2, data=[batch], into="h", expression=Stack("d", fuse))
    assert alone.children == ("b", "None", "c") and alone.mean != around.mean
    both = prune_fusion(model, fuse, keep=2, data=[batch], into="i", expression=Parallel(x=fuse, y=Stack("d", fuse)))
    assert both.mean == pytest.approx([(one + other) / 2 for one, other in zip(alone.mean, around.mean, strict=True)])
    named = prune_fusion(model, "f", keep=2, data=[batch], into="j", expression=Stack("d", fuse))
    assert named.mean == around.mean
    with pytest.raises(ExpressionError, match="the name of the fusion 'f' does not say"):
        prune_fusion(model, "f", keep=1, data=[batch])


def test_texts_are_data_too() -> None:
    model = compose.attach(texts.bert(), texts.tokenizer())
    for seed, name in enumerate("ab"):
        tiny.randomize(model.add_adapter(name, bottleneck_size=4), seed)
    tiny.randomize(model.add_fusion(Fuse("a", "b")), 5)
    found = compose.prune_fusion(model, Fuse("a", "b"), keep=1, data=["love new york", "a, b"], into="one")
    assert sum(found.mean) == pytest.approx(1) and found.mean[found.kept[0]] == max(found.mean)
    assert model.plan(found.fuse).tasks == ("one",)


def test_data_that_can_be_read_once() -> None:
    model, batches = fused(), [tiny.inputs("bert", seed=0), tiny.inputs("bert", seed=1)]
    known = prune_fusion(model, WHOLE, keep=2, data=batches, into="known")
    once: Any = (batch for batch in batches)
    assert prune_fusion(model, WHOLE, keep=2, data=once, into="once").mean == known.mean


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"keep": 0}, ConfigError, "keep=0, but of 4 children from 1 to 3 can be kept"),
        ({"keep": 4}, ConfigError, "keep=4"),
        ({"keep": True}, ConfigError, "keep=True"),
        ({"keep": 1.5}, ConfigError, "keep=1.5"),
        ({"data": []}, InputError, "nothing to measure the fusion 'a,b,c,d' on"),
        ({"data": "text"}, InputError, "a list of inputs is needed"),
        ({"data": ["text"]}, InputError, "no tokenizer"),
        ({"data": None}, InputError, "a list of inputs is needed"),
        ({"data": 3}, InputError, "a list of inputs is needed"),
        ({"data": [{"inputs_embeds": torch.full((1, 2, 32), torch.nan)}]}, InputError, "weights that are not finite"),
        ({"fuse": "a"}, ExpressionError, "is no Fuse with a name"),
        ({"fuse": Fuse("a", "b")}, RegistryError, "there is no fusion 'a,b'"),
        ({"expression": Stack("a", "b")}, ExpressionError, "does not stand in"),
        ({"expression": Split(WHOLE, "a", sizes=[2, None])}, InputError, "does not see all rows and tokens"),
        (
            {"expression": Parallel(x=WHOLE, y=Fuse(BatchSplit("a", "b", sizes=[1, None]), name="a,b,c,d"))},
            InputError,
            "does not see all rows and tokens",
        ),
        ({"into": "a,b,c,d"}, RegistryError, "'a,b,c,d' is there already"),
        ({"into": "not legal"}, ComposeError, "not legal"),
    ],
)
def test_what_is_refused(change: dict[str, Any], error: type[Exception], words: str) -> None:
    model = fused()
    before = model.fusions.names
    given = {"fuse": WHOLE, "keep": 2, "data": [tiny.inputs("bert")], **change}
    with pytest.raises(error, match=words):
        prune_fusion(model, **given)
    assert model.fusions.names == before
