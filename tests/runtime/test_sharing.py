"""Factors that adapters have in common: one tensor, trained by all, their own once more on request."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import compose
from compose.dsl import Parallel
from compose.errors import ConfigError, RegistryError
from compose.runtime.model import Model
from tests import tiny


def made(method: str = "mtl_lora", **options: Any) -> Model:
    model = tiny.model()
    for seed, name in enumerate(("a", "b", "c")):
        tiny.randomize(model.add_adapter(name, method, **options), seed)
    return model


def states(model: Model, expression: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.plan(expression).states(**tiny.inputs()).last_hidden_state


@pytest.mark.parametrize(("method", "names", "own"), [("mtl_lora", ("a", "b"), ("task", "weights")),
                                                      ("lora", ("a", "b"), ()),
                                                      ("dora", ("update.a", "update.b"), ("magnitude",))])  # fmt: skip
def test_factors_are_one(method: str, names: tuple[str, ...], own: tuple[str, ...]) -> None:
    model = made(method)
    apart = states(model, "c")
    own_before = {name: model.adapters["b"].tensors()[f"0.attn.q.{name}"].clone() for name in own}
    compose.share_factors(model, "a", "b")
    one, two, three = (dict(model.adapters[name].part(0, "attn.q").named_parameters()) for name in "abc")
    assert all(one[name] is two[name] and one[name] is not three[name] for name in names)
    assert all(two[name].equal(value) and one[name] is not two[name] for name, value in own_before.items())
    assert torch.equal(states(model, "c"), apart)
    a, b = states(model, Parallel("a", "b")).chunk(2)
    torch.testing.assert_close(a, states(model, "a"))
    torch.testing.assert_close(b, states(model, "b"))


def test_all_that_share_train_what_they_share() -> None:
    model = made(n_up_projection=2)
    compose.share_factors(model, "a", "b")
    trained = model.train_only(Parallel("a", "b"))
    whole = sum(part.parameters for part in model.adapters["a"].spec.parts)
    own = sum(p.numel() for name, p in model.adapters["b"].named_parameters() if name.endswith(("task", "weights")))
    assert trained.parts == {"adapter a": whole, "adapter b": own}
    part: Any = model.adapters["a"].part(0, "attn.v")
    model.plan("b").states(**tiny.inputs()).last_hidden_state.square().sum().backward()
    assert part.a.grad is not None and part.task.grad is None
    model.zero_grad()
    compose.unshare_factors(model, "b")
    assert model.train_only(Parallel("a", "b")).count == 2 * whole
    model.plan("b").states(**tiny.inputs()).last_hidden_state.square().sum().backward()
    assert part.a.grad is None


def test_copies_moves_and_checkpoints(tmp_path: Path) -> None:
    model = made()
    compose.share_factors(model, "a", "b")
    for twin in (copy.deepcopy(model), model.to(torch.float32)):
        one, two = (twin.adapters[name].part(0, "attn.q") for name in "ab")
        assert one.a is two.a and one.a is not made().adapters["a"].part(0, "attn.q").a
    state = model.state_dict()
    save_file(state, tmp_path / "model.safetensors")  # as Trainer does, which refuses tensors that share memory
    assert sum(name.endswith("attn:q.a") for name in state) == 6
    model.load_state_dict(state)
    model.save_adapter("b", tmp_path / "b")
    expected = states(model, "b")
    assert model.load_adapter(tmp_path / "b", name="again") == "again"
    assert torch.equal(states(model, "again"), expected)
    model.delete_adapter("a")
    assert torch.equal(states(model, "b"), expected)


def test_what_cannot_be_shared() -> None:
    model = made()
    model.add_adapter("wide", "mtl_lora", r=3)
    model.add_adapter("vera", "vera")
    model.add_adapter("elsewhere", "mtl_lora", attn_matrices=["q"])
    with pytest.raises(ConfigError) as caught:
        compose.share_factors(model, "a", "wide", "vera", "elsewhere")
    text = str(caught.value)
    assert "the factor a is (8, 32) in one, (3, 32) in the other" in text
    assert "no factors that are trained" in text and "only one of them acts on layer 0, attn.v" in text
    assert model.adapters["a"].part(0, "attn.q").a is not model.adapters["b"].part(0, "attn.q").a
    with pytest.raises(RegistryError, match="there is no adapter 'd'"):
        compose.share_factors(model, "a", "d")
    with pytest.raises(ConfigError, match="nobody to share with"):
        compose.share_factors(model, "a", "a")
