"""From an expression to a plan; compiled once per expression, adapters and options."""

from __future__ import annotations

import random
from collections import OrderedDict
from dataclasses import dataclass, field

from compose.dsl import Block, Drop, Expression, branches, fuses, leaves, own_name, with_children
from compose.graph.build import build
from compose.graph.sites import Vocabulary
from compose.passes import PassContext, check_names, run_passes
from compose.plan import Plan
from compose.schedule import schedule


@dataclass(frozen=True)
class Options:
    """How to compile.

    Args:
        training: whether gradients may be asked for.
        tasks: the positions of the outputs asked for, None for all.
        without: names of passes to leave out.
    """

    training: bool = False
    tasks: frozenset[int] | None = None
    without: frozenset[str] = frozenset()


def compile_plan(expression: Expression, vocabulary: Vocabulary, options: Options | None = None) -> Plan:
    """Compiles an expression: graph, passes, plan.

    Raises:
        CompileError: if the expression has no meaning over this backbone and these adapters.
        ConfigError: if a pass to leave out does not exist.
    """
    options = options or Options()
    check_names(options.without)
    graph = build(expression, vocabulary)
    context = PassContext(vocabulary, options.tasks, options.training)
    graph = run_passes(graph, context, options.without)
    return schedule(graph, vocabulary.backbone, len(branches(expression)), options.training)


@dataclass
class PlanCache:
    """The plans compiled last, by expression, what its names stand for, and options."""

    limit: int = 256
    _plans: OrderedDict[tuple[object, ...], Plan] = field(default_factory=OrderedDict)

    def get(self, expression: Expression, vocabulary: Vocabulary, options: Options) -> Plan:
        """The plan, compiled unless it is there."""
        adapters = tuple(vocabulary.adapters.get(name) for name in leaves(expression))
        fusions = tuple(vocabulary.fusions.get(own_name(fuse) or "") for fuse in fuses(expression))
        key = (expression, options, adapters, fusions, vocabulary.backbone)
        plan = self._plans.get(key)
        if plan is None:
            plan = self._plans[key] = compile_plan(expression, vocabulary, options)
            while len(self._plans) > self.limit:
                self._plans.popitem(last=False)
        return plan


def has_random_drops(expression: Expression) -> bool:
    """Whether layers are drawn anew at each training step."""
    if isinstance(expression, Drop) and isinstance(expression.first, tuple):
        return True
    return isinstance(expression, Block) and any(has_random_drops(child) for child in expression.children)


def draw_drops(expression: Expression, generator: random.Random | None) -> Expression:
    """The expression with every random Drop drawn, or set to 0 without a generator (evaluation)."""
    if not isinstance(expression, Block) or not has_random_drops(expression):
        return expression
    children = [draw_drops(child, generator) for child in expression.children]
    if isinstance(expression, Drop) and isinstance(expression.first, tuple):
        low, high = expression.first
        return Drop(children[0], first=generator.randint(low, high) if generator else 0)
    return with_children(expression, children)
