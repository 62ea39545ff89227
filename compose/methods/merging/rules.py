"""What arithmetic means for the weights of each method."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from compose.methods.bottleneck.spec import BottleneckConfig
from compose.methods.compacter.spec import CompacterConfig
from compose.methods.config import Config
from compose.methods.dora.spec import DvoraConfig
from compose.methods.ia3.spec import Ia3Config
from compose.methods.mtl_lora.spec import MtlLoraConfig
from compose.methods.reft.spec import ReftConfig
from compose.methods.vera.spec import VeraConfig


class Donor(NamedTuple):
    """An adapter that is to be merged.

    Args:
        name: its name, for errors.
        config: its options.
        tensors: its weights by canonical name.
    """

    name: str
    config: Config
    tensors: Mapping[str, Tensor]


Start = float | Callable[[Tensor], Tensor]
"""What a weight starts at: a constant, or something that is made for its shape."""


class Rule(NamedTuple):
    """What arithmetic has to know of a method's weights; these are named by how their canonical names end.

    Args:
        output: the weights that the increment is linear in: the sign of an adapter's weight goes to these alone, or
            it would cancel out between the factors. None if there are none.
        starts: what weights start at that start at something known other than 0.
        fixed: the weights that adapters must have in common, since what the others do rests on them.
        fixed_why: why these cannot be merged.
        mean: why nothing but a mean has a meaning, that is `linear` with weights from 0 that add up to 1; empty if
            other arithmetic has one too.
    """

    output: tuple[str, ...] | None = None
    starts: Mapping[str, Start] = {}
    fixed: tuple[str, ...] = ()
    fixed_why: str = ""
    mean: str = ""


_BOTTLENECK_STARTS = {"norm_before.weight": 1.0, "norm_after.weight": 1.0, "scaling": 1.0}
_MAGNITUDES = "magnitudes start as norms of the backbone's weights, which merging does not read"
_RANDOM = "keys and values of virtual tokens start at random: what training changed of them is not known"
_PROJECTIONS = ("shared.a", "shared.b")
_RULES = ("rule.whole", "rule.left", "rule.right")
_UP = ("up.factors.whole", "up.factors.left", "up.whole", "up.left", "up.bias")


def _bottleneck(config: BottleneckConfig) -> Rule:
    """Linear in its up-projection; an invertible part is no increment, and negated it is not undone."""
    return Rule(None if config.inv_adapter else ("up.weight", "up.bias"), _BOTTLENECK_STARTS)


def _compacter(config: CompacterConfig) -> Rule:
    """Sums of Kronecker products add up where one factor of each is the same."""
    why = "sums of Kronecker products are not the products of sums"
    return Rule(None if config.inv_adapter else _UP, _BOTTLENECK_STARTS, _RULES, why)


def _ia3(config: Ia3Config) -> Rule:
    """Linear in what a scaling differs from that which changes nothing."""
    return Rule(("scaling",), {"scaling": 1 / config.scale if config.scale else 1.0})


def _vera(config: VeraConfig) -> Rule:
    """Linear in b, between factors that never change."""
    starts = {name: _diagonal(start, config.square) for name, start in (("d", config.vera_d), ("b", config.vera_b))}
    return Rule(("b",), starts, _PROJECTIONS, "what d and b do rests on the random factors")


def _dvora(config: DvoraConfig) -> Rule:
    return Rule(None, {}, _PROJECTIONS, "what d and b do rests on the random factors", mean=_MAGNITUDES)


def _mtl_lora(config: MtlLoraConfig) -> Rule:
    """Linear in the up-projections; the task's matrix starts as the identity."""
    full = config.task_specific_matrix_type == "linear"
    return Rule(("b",), {"task": _diagonal(1.0, full), "weights": 1.0})


def _reft(config: ReftConfig) -> Rule:
    """DiReFT is linear in its projection. What subtracts the projection is quadratic in it."""
    if config.orthogonality:
        why = "rows of a sum of projections are not orthonormal"
        return Rule(None, {}, ("projection.weight",), why, mean="the projection of the state is subtracted once")
    return Rule(None if config.subtract_projection else ("projection.weight",))


def _diagonal(value: float, square: bool) -> Start:
    return (lambda like: value * torch.eye(len(like)).to(like)) if square else value


RULES: Mapping[str, Callable[[Any], Rule]] = {
    "bottleneck": _bottleneck,
    "compacter": _compacter,
    "lora": lambda config: Rule(("b",)),
    "dora": lambda config: Rule(None, mean=_MAGNITUDES),
    "vera": _vera,
    "dvora": _dvora,
    "mtl_lora": _mtl_lora,
    "ia3": _ia3,
    "bitfit": lambda config: Rule(("bias",)),
    "reft": _reft,
    "prefix_tuning": lambda config: Rule(None, mean=_RANDOM),
    "prompt_tuning": lambda config: Rule(None, mean="a prompt starts at random or as a text, and 0 is no token"),
    "layer_aggregation": lambda config: Rule(None, {"norm.weight": 1.0}),
}
"""By method. A union's parts have each the rule of their member."""


def rule_of(config: Config) -> Rule:
    """The rule of a method that is no union."""
    return RULES[config.method](config)


def start_of(rule: Rule, name: str, like: Tensor) -> Tensor | float:
    """What a weight started at, as far as that is known: 0 otherwise."""
    start: Start = ending(name, rule.starts, 0.0)
    return start(like) if callable(start) else start


def is_signed(rule: Rule, name: str) -> bool:
    """Whether the sign of an adapter's weight goes to this one."""
    return bool(ending(name, dict.fromkeys(rule.output or (), True), False))


def is_fixed(rule: Rule, name: str) -> bool:
    """Whether adapters must have a weight in common."""
    return bool(ending(name, dict.fromkeys(rule.fixed, True), False))


def ending(name: str, table: Mapping[str, Any], default: Any) -> Any:
    """The entry of how a weight's name ends in a table."""
    return next((value for last, value in table.items() if f".{name}".endswith(f".{last}")), default)
