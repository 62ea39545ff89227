"""Branches in which nothing is trained run by themselves where that is less work: a step records nothing of them.

Past the fork the rows of all branches lie in one batch, and autograd keeps and goes back through all of it
for the sake of one. Apart, backward has the rows of trained branches only, but each layer between the trunk and the
fork, which one pass runs once, runs in both passes. A count of rows says which is less.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from compose.dsl import Branch, fuses, leaves, own_name
from compose.methods.part import weights_of
from compose.runtime.checkpointing import is_reentrant

if TYPE_CHECKING:
    from compose.plan import Output
    from compose.runtime.bound import Bindings, Bound
    from compose.runtime.model import Model


class Share(NamedTuple):
    """Outputs that are computed together.

    Args:
        positions: their places among the plan's outputs; None for all of them.
        recorded: whether a step records what they are made of.
    """

    positions: tuple[int, ...] | None
    recorded: bool


def shares_of(
    model: Model,
    bindings: Bindings,
    branches: Sequence[Branch],
    outputs: Sequence[Output],
    positions: tuple[int, ...] | None,
    inputs: Mapping[str, Any],
    trunk: int,
) -> tuple[Share, ...]:
    """The outputs of a step of training, those of frozen branches apart from the others where that is less work.

    Args:
        model: the model.
        bindings: gives the plan of some outputs.
        branches: of the expression.
        outputs: of the plan, all of them.
        positions: those of the outputs asked for; None for all.
        inputs: what the backbone is given. All branches run together where any of it asks for gradients, and
            where keys and values of earlier tokens are given, to which each pass would add its own.
        trunk: number of layers whose states both passes are given.
    """
    everything = (Share(positions, True),)
    asked = range(len(outputs)) if positions is None else positions
    if len(branches) == 1 or not torch.is_grad_enabled() or any(outputs[position].rows for position in asked):
        return everything
    if inputs.get("past_key_values") is not None or _asks(list(inputs.values())) or is_reentrant(model.backbone):
        return everything
    trained = [_is_trained(model, branch) for branch in branches]
    recorded = tuple(position for position in asked if trained[outputs[position].branch])
    frozen = tuple(position for position in asked if not trained[outputs[position].branch])
    if not recorded or not frozen or any(p.requires_grad for p in model.backbone.parameters()):
        return everything
    whole, kept, rest = (bindings.get(True, positions), bindings.get(True, recorded), bindings.get(False, frozen))
    return (Share(frozen, False), Share(recorded, True)) if saves(whole, kept, rest, trunk) else everything


def saves(whole: Bound, recorded: Bound, frozen: Bound, trunk: int) -> bool:
    """Whether two passes are less work than one, counted in layers times classes of rows.

    Forward is one for each class at a layer's input. So is backward, from the first layer on where something is
    trained: the backbone's weights have no gradients, so that going back through a layer costs what running it costs.

    Args:
        whole: the plan of all outputs.
        recorded: that of outputs in whose branches something is trained.
        frozen: that of the others.
        trunk: number of layers that run once either way.
    """
    apart = _rows(recorded, trunk) + _rows(frozen, trunk) + _rows(recorded, _first_trained(recorded))
    return apart < _rows(whole, trunk) + _rows(whole, _first_trained(whole))


def _rows(bound: Bound, first: int) -> int:
    """Classes of rows in all layers from one on."""
    return sum(layer.classes for layer in bound.plan.layers[first:])


def _first_trained(bound: Bound) -> int:
    """The first layer that backward goes through; the number of layers if it goes through none."""
    layers = len(bound.plan.layers)
    trained = (
        layer
        for (layer, _), program in bound.programs.items()
        for step in program.steps
        for operation in step.operations
        for module in (operation.part, operation.fusion)
        if module is not None and any(p.requires_grad for p in weights_of(module))
    )
    return min((max(layer, 0) for layer in trained), default=layers)


def _asks(value: Any) -> bool:
    """Whether a tensor asks for gradients, also one in a tuple, a list or a model's output."""
    if isinstance(value, Tensor):
        return value.requires_grad
    if isinstance(value, Mapping):
        value = list(value.values())
    return isinstance(value, list | tuple) and any(map(_asks, value))


def _is_trained(model: Model, branch: Branch) -> bool:
    adapters, fusions = model.adapters, model.fusions
    names = [own_name(fuse) or "" for fuse in fuses(branch.expression)]
    modules = [*map(adapters.get, leaves(branch.expression)), *map(fusions.get, names)]
    return any(p.requires_grad for module in modules if module is not None for p in module.parameters())
