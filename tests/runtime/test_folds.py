"""Constant products of fusions follow every weight that they are made from, however it changes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compose.dsl import Fuse
from compose.runtime.model import Model
from tests import tiny

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("seq_bn", {"bottleneck_size": 4}),
    "learned": ("scaled_par_bn", {"bottleneck_size": 4}),
    "channel": ("adapter_plus", {"bottleneck_size": 4}),
    "compact": ("compacter++", {"bottleneck_size": 8}),
    "lora": ("lora", {"output_lora": True}),
    "vera": ("vera", {"attn_matrices": ["q", "k", "v"]}),
    "square": ("vera", {"r": 3, "attn_matrices": ["q"], "square": True}),
    "dora": ("dora", {}),
    "mtl": ("mtl_lora", {"n_up_projection": 2, "attn_matrices": ["q", "v"]}),
    "ia3": ("ia3", {}),
    "union": ("union", {"configs": [{"method": "seq_bn", "bottleneck_size": 4}, "lora"]}),
}
KINDS = ("dynamic", "static", "scalearn", "scalearn_uniform++")


def fused(kind: str, *names: str) -> tuple[Model, Fuse]:
    model = tiny.model("bert", 1)
    for seed, name in enumerate(names):
        method, options = METHODS[name]
        tiny.randomize(model.add_adapter(name, method, **options), seed)
    fuse = Fuse(*names, name="f")
    tiny.randomize(model.add_fusion(fuse, kind), 7, 0.2)
    return model, fuse


def states(model: Model, fuse: Fuse, without: tuple[str, ...] = ()) -> Tensor:
    with torch.no_grad():
        found: Tensor = model.plan(fuse, without).states(**tiny.inputs()).last_hidden_state
    return found


def weights(model: Model) -> Iterator[tuple[nn.Module, str]]:
    """Every weight and buffer of adapters and fusions, by its module and name."""
    for registry in (model.adapters, model.fusions):
        for module in registry.modules():
            for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
                if tensor.is_floating_point():
                    yield module, name


def in_place(module: nn.Module, name: str) -> None:
    with torch.no_grad():
        getattr(module, name).mul_(1.25)


def replaced(module: nn.Module, name: str) -> None:
    old = getattr(module, name)
    new = old.detach() * 1.25
    setattr(module, name, nn.Parameter(new) if isinstance(old, nn.Parameter) else new)


def swapped(module: nn.Module, name: str) -> None:
    getattr(module, name).data = getattr(module, name).data * 1.25


def loaded(module: nn.Module, name: str) -> None:
    module.load_state_dict({name: getattr(module, name) * 1.25}, strict=False)


def assigned(module: nn.Module, name: str) -> None:
    module.load_state_dict({name: getattr(module, name) * 1.25}, strict=False, assign=True)


@pytest.mark.parametrize("change", [in_place, replaced, swapped, loaded, assigned], ids=lambda change: change.__name__)
@pytest.mark.parametrize("kind", KINDS)
def test_each_weight(kind: str, change: Callable[[nn.Module, str], None]) -> None:
    for names in (
        ("plain", "learned", "compact", "union"),
        ("lora", "vera", "square", "mtl"),
        ("channel", "ia3", "dora"),
    ):
        model, fuse = fused(kind, *names)
        before, moved = states(model, fuse), 0
        for module, name in list(weights(model)):
            change(module, name)
            after = states(model, fuse)
            torch.testing.assert_close(after, states(model, fuse, ("fold",)), rtol=1e-9, atol=1e-9)
            moved += not torch.equal(before, after)
            before = after
        assert moved > 4


@pytest.mark.parametrize("fast", ["foreach", "fused", "neither"])
@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
def test_steps_of_optimizers(optimizer: type[torch.optim.Optimizer], fast: str) -> None:
    model, fuse = fused("dynamic", "plain", "compact")
    parameters = [*model.adapters.parameters(), *model.fusions.parameters()]
    for parameter in parameters:
        parameter.requires_grad_(True)
    options = {"foreach": {"foreach": True}, "fused": {"fused": True}, "neither": {"foreach": False}}[fast]
    made: Any = optimizer(parameters, lr=0.1, **options)  # type: ignore[call-arg]
    for _ in range(3):
        before = states(model, fuse)
        made.zero_grad()
        found = model.plan(fuse).states(**tiny.inputs()).last_hidden_state
        (found * torch.linspace(-1.0, 1.0, found.numel(), dtype=found.dtype).view_as(found)).sum().backward()
        made.step()
        after = states(model, fuse)
        torch.testing.assert_close(after, states(model, fuse, ("fold",)), rtol=1e-9, atol=1e-9)
        assert not torch.allclose(before, after)


def test_types_modes_and_copies() -> None:
    model, fuse = fused("dynamic", "plain", "learned", "compact")
    expected = states(model, fuse)
    model.train()  # its dropouts are 0
    torch.testing.assert_close(states(model, fuse), expected, rtol=1e-9, atol=1e-9)
    model.eval()
    twin = copy.deepcopy(model)
    in_place(twin.adapters["plain"].part(0, "ffn").up, "weight")
    torch.testing.assert_close(states(model, fuse), expected, rtol=0, atol=0)
    torch.testing.assert_close(states(twin, fuse), states(twin, fuse, ("fold",)), rtol=1e-9, atol=1e-9)
    half = states(model.float(), fuse)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, expected.float(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(states(model.double(), fuse), half.double(), rtol=1e-4, atol=1e-4)
