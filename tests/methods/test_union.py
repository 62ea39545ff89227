"""Unions: several methods under one name."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import nn

from compose.dsl import Drop, Expression, Fuse, Parallel, Route, Stack
from compose.errors import CompileError, ConfigError, FileError
from compose.methods.adapter import Adapter
from compose.methods.registry import config_from_dict, make_config
from compose.methods.union.module import PartsInTurn
from compose.methods.union.spec import UnionConfig
from compose.runtime.model import Model
from tests import tiny
from tests.laws.worlds import close, states

MEMBERS: dict[str, list[Any]] = {
    "unipelt": [
        {"method": "prefix_tuning", "prefix_length": 3, "bottleneck_size": 4, "use_gating": True},
        {"method": "seq_bn", "use_gating": True},
        {"method": "lora", "alpha": 2, "use_gating": True},
    ],
    "one map": ["lora", "ia3", {"method": "dora", "attn_matrices": ["q"]}],
    "one block": [{"method": "seq_bn", "bottleneck_size": 4}, {"method": "par_bn", "bottleneck_size": 3}],
    "everywhere": ["bitfit", "loreft", "vera", {"method": "seq_bn_inv", "bottleneck_size": 4}],
}


def copy_member(union: Adapter, number: int, alone: Adapter, taken: dict[str, int]) -> None:
    """Gives an adapter the weights that a union's member has."""
    for key, part in alone.parts.items():
        own = union.parts[key]
        if isinstance(own, PartsInTurn):
            own = cast(nn.Module, own.parts[taken.get(key, 0)])
            taken[key] = taken.get(key, 0) + 1
        part.load_state_dict(own.state_dict())
    if alone.shared is not None:
        alone.shared.load_state_dict(cast(nn.ModuleDict, union.shared)[str(number)].state_dict())


def model_of(architecture: str, members: list[Any]) -> tuple[Model, tuple[str, ...]]:
    """A model with a union `u` and with its members, each by itself, of the same weights."""
    model = tiny.model(architecture, 2)
    union = model.add_adapter("u", cast(Any, members))
    tiny.randomize(union, 3)
    taken: dict[str, int] = {}
    names = tuple(f"m{number}" for number in range(len(members)))
    for number, (name, config) in enumerate(zip(names, union.config.members, strict=True)):
        copy_member(union, number, model.add_adapter(name, config), taken)
    tiny.randomize(model.add_adapter("b", "seq_bn"), 5)
    return model, names


@pytest.mark.parametrize("architecture", ("bert", "gpt2", "t5"))
@pytest.mark.parametrize("members", MEMBERS.values(), ids=MEMBERS)
def test_a_union_is_a_stack_of_its_members(architecture: str, members: list[Any]) -> None:
    model, names = model_of(architecture, members)
    inputs = tiny.inputs(architecture, 3, 7, padded=True)
    close(states(model.plan("u"), inputs), states(model.plan(Stack(*names)), inputs))


@pytest.mark.parametrize("members", ("unipelt", "one map"))
@pytest.mark.parametrize("expression", (Stack("u", "b"), Drop("u", first=1), Parallel("u", "b")), ids=str)
def test_it_composes(expression: Expression, members: str) -> None:
    model, names = model_of("bert", MEMBERS[members])
    inputs = tiny.inputs("bert", 3, 7, padded=True)
    together = Stack(*names)

    def opened(node: Expression) -> Expression:
        if node == "u":
            return together
        return node if isinstance(node, str) else type(node)(*map(opened, node.children), **KEYWORDS[type(node)])

    close(states(model.plan(expression), inputs), states(model.plan(opened(expression)), inputs))


KEYWORDS: dict[type, dict[str, Any]] = {Stack: {}, Parallel: {}, Drop: {"first": 1}}


@pytest.mark.parametrize("members", MEMBERS.values(), ids=MEMBERS)
def test_one_union_in_branches_that_have_parted(members: list[Any]) -> None:
    """It runs on both at once, and each member still reads what it needs."""
    model, _ = model_of("bert", members)
    inputs = tiny.inputs("bert", 3, 7, padded=True)
    found = states(model.plan(Parallel(x=Stack("b", "u"), y="u")), inputs).chunk(2)
    for rows, alone in zip(found, (Stack("b", "u"), "u"), strict=True):
        close(rows, states(model.plan(alone), inputs))


def test_each_row_its_own() -> None:
    model, _ = model_of("bert", MEMBERS["unipelt"])
    inputs = tiny.inputs("bert", 3, 7)
    found = states(model.plan(Route(u="u", b="b")), inputs, route=["u", "b", "u"])
    expected = states(model.plan(Parallel("u", "b")), inputs).chunk(2)
    close(found, torch.stack([expected[0][0], expected[1][1], expected[0][2]]))


def test_it_is_fused_where_all_members_can_be() -> None:
    model, _ = model_of("bert", [{"method": "seq_bn", "bottleneck_size": 4}, "lora"])
    fuse = Fuse("u", "b")
    tiny.randomize(model.add_fusion(fuse), 1)
    inputs = tiny.inputs("bert", 3, 7)
    close(states(model.plan(fuse), inputs), states(model.plan(fuse, ("fold",)), inputs))
    other, _ = model_of("bert", MEMBERS["unipelt"])
    with pytest.raises(CompileError, match="'u' cannot be fused"):
        other.add_fusion(Fuse("u", "b"))


def test_configs_in_all_their_forms() -> None:
    union = make_config("unipelt")
    assert isinstance(union, UnionConfig) and [config.method for config in union.members] == [
        "prefix_tuning",
        "bottleneck",
        "lora",
    ]
    assert config_from_dict("union", union.to_dict()) == union == make_config(union)
    assert make_config(["lora", make_config("ia3")]) == make_config("union", configs=[{"method": "lora"}, "ia3"])
    assert make_config("lora").members == (make_config("lora"),)


def test_mistakes_are_told_together() -> None:
    with pytest.raises(
        ConfigError, match=r"(?s)configs\[1\]: not a method.*configs\[2\].*'lor'.*configs\[3\].*r must be"
    ):
        make_config(["lora", 3, "lor", {"method": "lora", "r": 0}])
    for nothing in ([], "lora", [make_config("mam")]):
        with pytest.raises(ConfigError, match="configs must be a list of configs"):
            make_config("union", configs=nothing)
    with pytest.raises(ConfigError) as caught:
        make_config("union", configs=["unipelt"])
    assert len(str(caught.value)) < 250  # not all options of all members
    model = tiny.model("bert", 2)
    with pytest.raises(ConfigError, match=r"two members of the union 'u' act at the site 'attn\.core'"):
        model.add_adapter("u", cast(Any, ["prefix_tuning", {"method": "prefix_tuning", "prefix_length": 2}]))


@pytest.mark.parametrize("members", MEMBERS.values(), ids=MEMBERS)
def test_saved_and_loaded(members: list[Any], tmp_path: Path) -> None:
    model, _ = model_of("bert", members)
    model.save_adapter("u", tmp_path / "u")
    assert model.load_adapter(tmp_path / "u", "again") == "again"
    assert model.adapters["again"].config == model.adapters["u"].config
    inputs = tiny.inputs("bert", 3, 7)
    assert torch.equal(states(model.plan("again"), inputs), states(model.plan("u"), inputs))


def test_members_that_read_what_the_map_gave_stand_beside_others() -> None:
    """DoRA reads the map's own output, which a group has to hand on."""
    model, names = model_of("bert", ["lora", "dora"])
    inputs = tiny.inputs("bert", 3, 7, padded=True)
    whole = Parallel(a=Stack("b", "u"), b=Drop("u", first=1), c="u", d="b")
    found = states(model.plan(whole), inputs).chunk(4)
    for rows, expression in zip(
        found, (Stack("b", *names), Drop(Stack(*names), first=1), Stack(*names), "b"), strict=True
    ):
        close(rows, states(model.plan(expression), inputs))


@pytest.mark.parametrize(
    "members",
    [
        ["compacter++", "seq_bn"],
        [{"method": "prefix_tuning", "leave_out": [0]}, {"method": "prefix_tuning_flat", "leave_out": [1]}],
        ["lora", "ia3"],
    ],
)
def test_what_could_not_be_read_again_is_not_written(members: list[Any], tmp_path: Path) -> None:
    model = tiny.model()
    model.add_adapter("u", cast(Any, members))
    with pytest.raises(FileError, match="AdapterHub has no union of two such members"):
        model.save_adapter("u", tmp_path / "u", format="adapterhub")
    assert not (tmp_path / "u").exists()
