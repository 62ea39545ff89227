"""A plan's trunk run apart: the layers that no adapter has reached yet, whose states are always the same.

Two views of the backbone share its modules: the lower one has the layers below a depth, the upper one takes
their states where the embeddings were and has the rest. The backbone itself stays as it is.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, nn

from compose.backbones.resolve import Anatomy
from compose.backbones.table import Entry
from compose.errors import InputError, Problem
from compose.plan import Plan
from compose.runtime.checkpointing import as_embedded

HINT = "plan.trunk_states(**inputs) gives those that fit"


class TrunkStates(NamedTuple):
    """What the layers below a depth hand on for some rows.

    Args:
        depth: number of layers that they have gone through.
        states: [rows, tokens, width], what the layer at `depth` is given; of a plan that aggregates layers,
            before it what each layer below is given, in order.
    """

    depth: int
    states: tuple[Tensor, ...]


def depth_of(plan: Plan, anatomy: Anatomy) -> int:
    """How many layers come before the first where anything acts, branches part or weights are trained.

    0 where the backbone cannot be entered after its embeddings: T5's first layer makes the position bias of all.
    """
    if not anatomy.table.entry:
        return 0
    if any(p.requires_grad for p in _outside(anatomy)):
        return 0
    if plan.embedding is not None:
        return 0
    acting = {layer for layer, _ in plan.programs}
    for layer, rows in zip(anatomy.layers, plan.layers, strict=True):
        trained = any(p.requires_grad for p in layer.layer.parameters())
        if layer.index in acting or rows.gather is not None or trained:
            return layer.index
    return len(anatomy.layers)


def no_trunk(plan: Plan, anatomy: Anatomy, random: bool) -> Problem:
    """Why a plan without a trunk has none.

    Args:
        plan: the plan, as it runs in evaluation.
        anatomy: of its backbone.
        random: whether the expression drops a random number of layers.
    """
    hint = "Drop(..., first=n) leaves the first n layers to the trunk"
    if not anatomy.table.entry:
        why, hint = "this backbone cannot be entered after its embeddings", "an encoder, or GPT-2 or LLaMA"
    elif any(p.requires_grad for p in (*_outside(anatomy), *anatomy.layers[0].layer.parameters())):
        why = "the backbone's embeddings or its first layer are trained, so that their states change at each step"
        hint = "a regime that leaves them frozen"
    elif random:
        why = "its Drop is random: it drops another number of layers at each step of training, and none in evaluation"
    else:
        why = "adapters act, or branches part, from the first layer on; the trunk is the plain backbone's, so that "
        why += "frozen adapters end it too"
    return Problem("the plan has no trunk", why=why, hint=hint)


def check_trunk(given: TrunkStates, plan: Plan, anatomy: Anatomy, rows: int, tokens: int | None) -> None:
    """Checks that states given are those of a plan's trunk; those of all layers serve a plan that needs the last.

    Args:
        given: the states.
        plan: the plan.
        anatomy: of its backbone.
        rows: of the batch.
        tokens: of a row; None for images.

    Raises:
        InputError: if an adapter would have changed them, layers are missing, or there are other rows or tokens.
    """
    if not isinstance(given, TrunkStates):
        raise InputError(f"trunk_states is a {type(given).__name__}, but TrunkStates are needed", hint=HINT)
    depth = depth_of(plan, anatomy)
    problems = []
    if not 0 < given.depth <= depth:
        problems.append(Problem(f"trunk states of {given.depth} layers, but the plan's trunk has {depth}", hint=HINT))
    every = given.depth + 1
    if len(given.states) != every and (plan.aggregation is not None or len(given.states) != 1):
        wanted = 1 if plan.aggregation is None else every
        problems.append(Problem(f"trunk states of {len(given.states)} places, but {wanted} are needed", hint=HINT))
    for found in dict.fromkeys(tuple(states.shape[:2]) for states in given.states):
        if found != (rows, found[1] if tokens is None else tokens):
            what = f"trunk states of {found[0]} rows and {found[1]} tokens"
            problems.append(Problem(f"{what} for a batch of {rows} and {tokens or found[1]}", hint=HINT))
    if problems:
        raise InputError(problems)


def lower(backbone: nn.Module, anatomy: Anatomy, depth: int) -> nn.Module:
    """The backbone with the layers below `depth` only."""
    return replaced(backbone, {anatomy.table.stacks[0].layers: lambda layers: layers[:depth]})


def upper(backbone: nn.Module, anatomy: Anatomy, given: TrunkStates) -> nn.Module:
    """The backbone from the layer at a depth on; what it makes of its inputs is replaced by the states given."""
    last = as_embedded(backbone, given.states[-1])
    results: dict[Entry, Callable[..., Any]] = {
        "states": lambda *_, **__: last,
        "nothing": lambda *_, **__: last.new_zeros(()),
        "unchanged": lambda states, *_, **__: states,
    }
    changes: dict[str, Callable[[Any], Any]] = {
        path: partial(answering, result=results[entry]) for path, entry in anatomy.table.entry.items()
    }
    changes[anatomy.table.stacks[0].layers] = lambda layers: layers[given.depth :]
    return replaced(backbone, changes)


def without_embedded(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs without those that only embeddings read."""
    return {name: value for name, value in inputs.items() if name != "token_type_ids"}


def _outside(anatomy: Anatomy) -> list[nn.Parameter]:
    return [parameter for module in anatomy.before for parameter in module.parameters()]


def replaced(root: nn.Module, changes: Mapping[str, Callable[[Any], Any]]) -> nn.Module:
    """A copy of a module that shares all but what lies on the changed paths."""
    view = copy.copy(root)
    view._modules = dict(root._modules)
    below: dict[str, dict[str, Callable[[Any], Any]]] = {}
    for path, change in changes.items():
        name, _, rest = path.partition(".")
        below.setdefault(name, {})[rest] = change
    for name, inner in below.items():
        child = getattr(root, name)
        view._modules[name] = inner[""](child) if "" in inner else replaced(child, inner)
    return view


def answering(module: nn.Module, result: Callable[..., Any]) -> nn.Module:
    """A copy of a module that answers every call with `result`; its attributes can still be read."""
    view = copy.copy(module)
    view.__dict__["forward"] = result
    return view
