"""An expression compiled over a model and bound to its modules, once for each selection of tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from compose.compile import Options
from compose.dsl import Expression, fuses, leaves, own_name
from compose.plan import Plan, SiteKey
from compose.runtime import merge
from compose.runtime.bind import BoundProgram, Modules, bind

if TYPE_CHECKING:
    from compose.runtime.model import Model


class Bound(NamedTuple):
    """A plan whose programs hold their modules."""

    plan: Plan
    programs: Mapping[SiteKey, BoundProgram]


class Bindings:
    """The bound plans of one expression; forgotten when its names come to stand for something else.

    Args:
        model: the model.
        expression: what to run, without random drops.
        without: names of compiler passes to leave out.
    """

    def __init__(self, model: Model, expression: Expression, without: frozenset[str]) -> None:
        self.model = model
        self.expression = expression
        self.without = without
        self.adapters = leaves(expression)
        self.fusions = tuple(own_name(fuse) or "" for fuse in fuses(expression))
        self._version = -1
        self._stands_for: tuple[Any, ...] = ()
        self._bound: dict[tuple[bool, tuple[int, ...] | None], Bound] = {}

    def get(self, training: bool, positions: tuple[int, ...] | None) -> Bound:
        """The plan for some outputs.

        Args:
            training: whether gradients may be asked for.
            positions: those of the outputs that are wanted; None for all.

        Raises:
            CompileError: if a name stands for nothing by now, or for something that has no meaning there.
        """
        if torch.compiler.is_dynamo_compiling():
            _get_while_tracing(self, training, positions)
        if self._version != self.model.version:
            self._refresh()
        bound = self._bound.get((training, positions))
        if bound is None:
            options = Options(training, None if positions is None else frozenset(positions), self.without)
            merge.check_expression(self.model, self.expression)
            plan = self.model.plans.get(self.expression, merge.vocabulary_of(self.model), options)
            modules = Modules(self.model.adapters, self.model.fusions, self.model.adapter_dtype)
            programs = {key: bind(program, modules) for key, program in plan.programs.items()}
            bound = self._bound[training, positions] = Bound(plan, programs)
        return bound

    def in_training(self) -> bool:
        """Whether gradients may be asked for of what a fusion folds."""
        # One that is missing was deleted: binding says so, and where.
        return torch.is_grad_enabled() and any(_is_trained(module) for module in self._modules() if module is not None)

    def enforce_masks(self) -> None:
        """Zeroes what sparse adapters have lost, where an optimizer has moved it."""
        for name in self.adapters:
            self.model.adapters[name].masks.enforce()

    def _modules(self) -> list[nn.Module | None]:
        """The adapters and fusions that it names, None for one that is not there."""
        adapters, fusions = self.model.adapters, self.model.fusions
        return [*map(adapters.get, self.adapters), *map(fusions.get, self.fusions)]

    def _refresh(self) -> None:
        """Forgets what is bound if its names stand for something else by now; other names may come and go."""
        merged = self.model.hooks.merged.names
        version, stands_for = self.model.version, (self.model.adapter_dtype, merged, *self._modules())
        if stands_for != self._stands_for:
            self._bound, self._stands_for = {}, stands_for
        self._version = version


def _is_trained(module: nn.Module) -> bool:
    return any(p.requires_grad for p in module.parameters())


@torch.compiler.assume_constant_result
def _get_while_tracing(bindings: Bindings, training: bool, positions: tuple[int, ...] | None) -> bool:
    """Compiles and binds a plan when `torch.compile` comes to it, untraced: its trace then finds the result."""
    bindings.get(training, positions)
    return True
