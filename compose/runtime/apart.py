"""Branches in which nothing is trained run by themselves, so that a step records nothing of them.

Past the fork the rows of all branches lie in one batch, and autograd keeps and goes back through all of it
for the sake of one. Two passes over half the rows each cost what one pass costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from compose.dsl import Branch, fuses, leaves, own_name

if TYPE_CHECKING:
    from compose.plan import Output
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
    branches: Sequence[Branch],
    outputs: Sequence[Output],
    positions: tuple[int, ...] | None,
    inputs: Sequence[Any],
) -> tuple[Share, ...]:
    """The outputs of a call in training, those of frozen branches apart from the others.

    Args:
        model: the model.
        branches: of the expression.
        outputs: of the plan, all of them.
        positions: those of the outputs asked for; None for all.
        inputs: what the backbone is given; where any of it asks for gradients, all branches are recorded.
    """
    everything = (Share(positions, True),)
    asked = range(len(outputs)) if positions is None else positions
    if len(branches) == 1 or not torch.is_grad_enabled() or any(outputs[position].rows for position in asked):
        return everything
    if any(isinstance(one, Tensor) and one.requires_grad for one in inputs):
        return everything
    trained = [_is_trained(model, branch) for branch in branches]
    recorded = tuple(position for position in asked if trained[outputs[position].branch])
    frozen = tuple(position for position in asked if not trained[outputs[position].branch])
    if not recorded or not frozen or any(p.requires_grad for p in model.backbone.parameters()):
        return everything
    return (Share(frozen, False), Share(recorded, True))


def _is_trained(model: Model, branch: Branch) -> bool:
    adapters, fusions = model.adapters, model.fusions
    names = [own_name(fuse) or "" for fuse in fuses(branch.expression)]
    modules = [*map(adapters.get, leaves(branch.expression)), *map(fusions.get, names)]
    return any(p.requires_grad for module in modules if module is not None for p in module.parameters())
