"""What was made from a weight is made anew when an optimizer has moved it, whatever way it takes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from compose.dsl import Drop
from compose.methods.reft.orthogonal import Projection, orthonormal
from compose.methods.watched import Watched
from compose.runtime.sparsity import sparsify
from compose.train.trunk_cache import TrunkCache
from tests import tiny

WAYS: Any = pytest.mark.parametrize("way", [{"fused": True}, {"foreach": True}, {"foreach": False}], ids=str)


def step(weights: list[nn.Parameter], way: dict[str, bool]) -> None:
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    torch.optim.AdamW(weights, lr=0.1, **way).step()


@WAYS
def test_steps_are_changes_of_what_moves(way: dict[str, bool]) -> None:
    moved, frozen, other = (nn.Parameter(torch.ones(3)) for _ in range(3))
    watched = [Watched.of(weight) for weight in (moved, frozen)]
    version = other._version
    moved.grad, other.grad = torch.ones(3), torch.ones(3)
    torch.optim.AdamW([moved, frozen, other], lr=0.1, **way).step()
    assert [one.unchanged() for one in watched] == [False, True]
    if "fused" in way:
        assert other._version == version  # nobody asked: it is as torch has it


@WAYS
def test_orthogonal_projections(way: dict[str, bool]) -> None:
    projection = Projection(2, 6, orthogonal=True)
    nn.init.normal_(projection.weight)
    with torch.no_grad():
        before = projection.matrix()
        step([projection.weight], way)
        assert not torch.equal(projection.matrix(), before)
        torch.testing.assert_close(projection.matrix(), orthonormal(projection.weight))


@WAYS
def test_sparse_adapters(way: dict[str, bool]) -> None:
    model = tiny.model()
    adapter = model.add_adapter("a", "seq_bn")
    sparsify(model, "a", 0.5)
    model.plan("a").states(**tiny.inputs())
    step([weight for weight in adapter.parameters() if weight.dim() > 1], way)
    model.plan("a").states(**tiny.inputs())
    for name, weight in adapter.weights().items():
        if weight.dim() > 1:
            assert torch.equal(weight == 0, ~adapter.masks.by_name()[name])


@WAYS
def test_trunks(way: dict[str, bool]) -> None:
    model, cache, inputs = tiny.model(), TrunkCache(), tiny.inputs()
    model.add_adapter("a", "seq_bn")
    plan = model.plan(Drop("a", first=1))
    for _ in range(2):
        torch.testing.assert_close(cache.states(plan, inputs).states, plan.trunk_states(**inputs).states)
        step([model.backbone.get_input_embeddings().weight], way)  # type: ignore[operator,union-attr,list-item]
    torch.testing.assert_close(cache.states(plan, inputs).states, plan.trunk_states(**inputs).states)
    assert cache.computed == 9
