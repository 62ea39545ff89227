"""The plans that a model has made, found again by their expressions and by the texts of these."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from compose.dsl import Block, Expression, as_expression
from compose.runtime.runnable import RunnablePlan

if TYPE_CHECKING:
    from compose.runtime.model import Model

LIMIT = 256


class RunnablePlans:
    """The plans of one model that were asked for last."""

    def __init__(self) -> None:
        self._plans: dict[tuple[Expression, frozenset[str]], RunnablePlan] = {}

    def get(self, model: Model, expression: Expression, without: Collection[str]) -> RunnablePlan:
        """The plan of an expression, made unless it is there.

        Args:
            model: the model, always the same one.
            expression: a block, a name, None, or a text.
            without: names of compiler passes to leave out.

        Raises:
            ExpressionError: if the text cannot be read.
            CompileError: if the expression has no meaning over this backbone and these adapters.
        """
        if not isinstance(expression, Block | str | None):
            as_expression(expression)  # raises
        given = (expression, frozenset(without))
        plan = self._plans.get(given)
        if plan is None:
            key = (as_expression(expression), given[1])
            plan = self._plans.get(key) or RunnablePlan(model, key[0], tuple(without))
            # A text is read once: that takes longer than finding the plan. One assignment, for other threads.
            self._plans = {**dict(list(self._plans.items())[-LIMIT + 2 :]), key: plan, given: plan}
        return plan
