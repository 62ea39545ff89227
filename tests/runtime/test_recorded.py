"""What a training step records for backward: nothing below the first trained site."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from compose import Drop, Fuse
from compose.dsl import Expression
from compose.runtime.model import Model
from tests import tiny

LAYERS = 4


def model_of() -> Model:
    model = tiny.model("bert", LAYERS)
    for seed, name in enumerate("ab"):
        tiny.randomize(model.add_adapter(name, "seq_bn"), seed)
    tiny.randomize(model.add_fusion(Fuse("a", "b", name="f")), 7)
    return model


def recording(model: Model, expression: Expression) -> list[int]:
    """The layers whose output takes part in backward."""
    found: list[int] = []

    def note(index: int, output: Tensor | tuple[Tensor, ...]) -> None:
        tensor = output if isinstance(output, Tensor) else output[0]
        if tensor.requires_grad:
            found.append(index)

    handles = [
        layer.layer.register_forward_hook(lambda module, args, output, index=layer.index: note(index, output))
        for layer in model.hooks.anatomy.layers
    ]
    model.plan(expression).states(**tiny.inputs())
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("first", range(LAYERS + 1))
def test_layers_below_the_first_trained_one_record_nothing(first: int) -> None:
    model = model_of()
    model.train_only("a")
    assert recording(model, Drop("a", first=first)) == list(range(first, LAYERS))


def test_heads_alone_record_nothing_in_the_layers() -> None:
    model = model_of()
    model.add_head("a", labels=2)
    model.train_only("a", "heads")
    assert recording(model, "a") == []


def test_frozen_children_of_a_trained_fusion_have_no_gradients() -> None:
    model = model_of()
    fuse = Fuse("a", "b", name="f")
    model.train_only(fuse, "fusion")
    with torch.enable_grad():
        model.plan(fuse).states(**tiny.inputs()).last_hidden_state.square().sum().backward()
    assert all(p.grad is None for p in model.adapters.parameters())
    assert any(p.grad is not None for p in model.fusions.parameters())
