"""Invertible parts: their equations, that they can be undone, what they cost."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from compose.errors import ConfigError
from compose.methods.adapter import Adapter
from compose.methods.invertible.module import InvertiblePart
from compose.methods.part import Context
from compose.methods.registry import make_config
from tests.methods.shapes import BERT_BASE, encoder, randomised

KINDS = ("nice", "glow")


def part_of(kind: str, width: int = 12, **options: Any) -> InvertiblePart:
    made = randomised(Adapter("a", make_config("seq_bn_inv", inv_adapter=kind, **options), encoder(1, width)))
    part = made.part(-1, "embed")
    assert isinstance(part, InvertiblePart)
    return part


def run(net: Any, states: Tensor) -> Tensor:
    hidden = torch.relu(states @ net.down.weight.T + net.down.bias)
    return hidden @ net.up.weight.T + net.up.bias


@pytest.mark.parametrize("width", [12, 11])
def test_nice(width: int) -> None:
    part, y = part_of("nice", width), torch.randn(2, 5, width, dtype=torch.float64)
    left, right = y[..., : width // 2], y[..., width // 2 :]
    first = left + run(part.first, right)
    second = right + run(part.second, first)
    torch.testing.assert_close(part(y, Context()), torch.cat([first, second], -1))


@pytest.mark.parametrize("width", [12, 11])
def test_glow(width: int) -> None:
    part, y = part_of("glow", width), torch.randn(2, 5, width, dtype=torch.float64)

    def grown(scale: Tensor) -> Tensor:
        return (5 * 0.636 * (scale / 5).atan()).exp()

    half = width // 2
    left, right = y[..., :half], y[..., half:]
    given = run(part.first, right)
    first = grown(given[..., :half]) * left + given[..., half:]
    given = run(part.second, first)
    second = grown(given[..., : width - half]) * right + given[..., width - half :]
    torch.testing.assert_close(part(y, Context()), torch.cat([first, second], -1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [12, 11])
def test_it_can_be_undone(kind: str, width: int) -> None:
    part, y = part_of(kind, width, non_linearity="swish"), torch.randn(2, 5, width, dtype=torch.float64)
    changed = part(y, Context())
    assert not torch.allclose(changed, y, atol=0.1)
    torch.testing.assert_close(part.inverse(changed), y, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(part(part.inverse(y), Context()), y, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_a_group_gives_what_its_members_give(kind: str) -> None:
    parts = [part_of(kind) for _ in range(3)]
    ys = torch.randn(3, 2, 5, 12, dtype=torch.float64)
    found = InvertiblePart.grouped(parts, ys, Context())
    torch.testing.assert_close(found, torch.stack([part(y, Context()) for part, y in zip(parts, ys, strict=True)]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{}, {"non_linearity": "prelu"}, {"inv_adapter_reduction_factor": 50}])
def test_what_it_costs(kind: str, options: dict[str, Any]) -> None:
    part = part_of(kind, **options)
    spec = make_config("seq_bn_inv", inv_adapter=kind, **options).describe("a", encoder(1, 12)).by_site[-1, "embed"]
    assert sum(parameter.numel() for parameter in part.parameters()) == spec.parameters
    with FlopCounterMode(display=False) as counter:
        part(torch.randn(2, 5, 12, dtype=torch.float64), Context())
    assert counter.get_total_flops() == 2 * 10 * spec.multiplies


def test_the_size_on_bert_base() -> None:
    spec = make_config("double_seq_bn_inv").describe("a", BERT_BASE)
    assert sum(part.parameters for part in spec.parts) == 2_085_120


def test_it_may_act_alone() -> None:
    config = make_config("seq_bn_inv", output_adapter=False)
    assert [(part.layer, part.site) for part in config.describe("a", encoder()).parts] == [(-1, "embed")]


def test_options_that_are_wrong() -> None:
    with pytest.raises(ConfigError, match=r"(?s)inv_adapter must be 'nice', 'glow' or None.*factor must be"):
        make_config("seq_bn", inv_adapter="real_nvp", inv_adapter_reduction_factor=0)


def test_seeded_weights_are_drawn_again() -> None:
    a, b = (Adapter(name, make_config("seq_bn_inv", init_weights_seed=3), encoder()).tensors() for name in "ab")
    assert all(torch.equal(a[name], b[name]) for name in a) and "-1.embed.first.down.weight" in a
