"""Our dropout: the same distribution as torch's, drawn in another way."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from compose.dropout import Dropout, dropout

SHAPES = [(3, 5, 7), (1,), (0, 4), (64, 1000)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_values_are_dropped_or_scaled(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    found = dropout(torch.ones(shape, dtype=dtype), 0.25, True)
    kept = torch.ones((), dtype=dtype) / 0.75  # a quarter is a number of 16 bits
    assert found.shape == shape and found.dtype == dtype
    assert torch.equal(found, torch.where(found == 0, 0, kept))


@pytest.mark.parametrize("p", [0.01, 0.1, 0.5, 0.9])
def test_each_value_is_dropped_as_often_as_it_should_be(p: float) -> None:
    torch.manual_seed(0)
    zeros = (dropout(torch.ones(500, 1000), p, True) == 0).double()
    assert zeros.mean().item() == pytest.approx(p, abs=5 * (p * (1 - p) / zeros.numel()) ** 0.5)
    parts = zeros.view(-1, 4)  # of one drawn number: independent of each other
    for one, other in combinations(range(4), 2):
        both = (parts[:, one] * parts[:, other]).mean().item()
        assert both == pytest.approx(p * p, abs=5 * (p * p * (1 - p * p) / len(parts)) ** 0.5)


def test_gradients_pass_where_values_did() -> None:
    states = torch.randn(40, 50, requires_grad=True)
    found = dropout(states, 0.3, True)
    (gradient,) = torch.autograd.grad(found.sum(), states)
    assert torch.equal(gradient * states, found)


def test_the_seed_says_what_is_dropped_and_a_recomputation_drops_the_same() -> None:
    states = torch.randn(30, 20, requires_grad=True)
    torch.manual_seed(3)
    one, other = dropout(states, 0.5, True), dropout(states, 0.5, True)
    torch.manual_seed(3)
    assert torch.equal(dropout(states, 0.5, True), one) and not torch.equal(one, other)
    found = checkpoint(lambda given: dropout(given, 0.5, True), states, use_reentrant=False)
    (gradient,) = torch.autograd.grad(found.sum(), states)
    assert torch.equal(gradient * states, found)


def test_nothing_is_drawn_where_nothing_is_dropped() -> None:
    states, before = torch.randn(4, 4), torch.get_rng_state()
    assert dropout(states, 0.0, True) is states and dropout(states, 0.5, False) is states
    assert not dropout(states, 1.0, True).any()
    assert Dropout(0.5).eval()(states) is states
    torch.set_rng_state(before)
    assert torch.equal(Dropout(0.5)(states), _again(before, states))


def _again(state: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    torch.set_rng_state(state)
    return dropout(states, 0.5, True)


def test_nearly_everything_may_be_dropped() -> None:
    assert not dropout(torch.ones(1000), 1 - 1e-12, True).any()
