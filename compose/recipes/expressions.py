"""The expressions of a recipe, and what is wrong with them in it, marked in the recipe's own lines."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from compose.dsl import Expression, as_expression, branches, fuses, outputs, own_name, walk
from compose.errors import ComposeError, Problem
from compose.recipes.document import Document, KeyPath
from compose.recipes.schema import Recipe


def tasks_of(expression: Expression) -> tuple[str | None, ...]:
    """The tasks that an expression answers, None for an output without a name.

    Raises:
        CompileError: a nesting that has no meaning.
    """
    return tuple(output.task for branch in branches(expression) for output in outputs(branch))


def task_names(text: str) -> list[str]:
    """The tasks of a checked expression."""
    return [task for task in tasks_of(as_expression(text)) if task is not None]


class Expressions:
    """Reads expressions by what a recipe has.

    Args:
        recipe: the recipe.
        document: where things stand in it.
    """

    def __init__(self, recipe: Recipe, document: Document) -> None:
        self.recipe, self.document = recipe, document

    def read(self, path: KeyPath, text: str) -> tuple[Expression, list[Problem]]:
        """The expression of a text, and what is wrong with it in this recipe."""
        try:
            expression = as_expression(text)
            tasks = tasks_of(expression)
        except ComposeError as error:
            return None, list(self.in_text(path, text, error))
        problems = list(self.adapters(expression, path, text))
        for fuse in fuses(expression):
            if own_name(fuse) not in self.recipe.fusions:
                legal = tuple(self.recipe.fusions)
                what = f"there is no fusion '{own_name(fuse)}'"
                problems.append(self._name_in_text(path, text, what, own_name(fuse) or "", legal))
        for task in tasks:
            if task is None:
                hint = "Parallel(task=...)"
                what = "an output without a name can be neither trained nor scored"
                problems.append(self.document.place(path).problem(what, hint=hint))
            elif task not in self.recipe.heads:
                legal = tuple(self.recipe.heads)
                problems.append(self._name_in_text(path, text, f"task '{task}' has no head", task, legal))
        return expression, problems

    def adapters(self, expression: Expression, path: KeyPath, text: str) -> Iterator[Problem]:
        """The adapters in an expression that the recipe does not have."""
        known = tuple(self.recipe.adapters)
        for name in dict.fromkeys(node for _, node in walk(expression) if isinstance(node, str)):
            if name not in known:
                yield self._name_in_text(path, text, f"there is no adapter '{name}'", name, known)

    def _name_in_text(self, path: KeyPath, text: str, what: str, name: str, legal: tuple[str, ...]) -> Problem:
        """A problem with a name inside an expression, marked where it first stands."""
        quoted = re.search(rf"""["']{re.escape(name)}["']|\b{re.escape(name)}\b""", text) if name else None
        span = quoted.span() if quoted else None
        return self._moved(path, text, Problem(what, text=text, span=span, got=name, legal=legal))

    def in_text(self, path: KeyPath, text: str, error: ComposeError) -> Iterator[Problem]:
        """What is wrong with an expression, marked in the recipe."""
        for problem in error.problems:
            yield self._moved(path, text, problem)

    def _moved(self, path: KeyPath, text: str, problem: Problem) -> Problem:
        """A problem marked in an expression, marked in the line of the recipe instead where that can be."""
        place = self.document.place(path)
        start = place.text.find(text, place.column - 1)
        if start < 0 or problem.text != text or problem.span is None:
            if problem.text:
                return replace(problem, where=str(place))
            found = place.problem(problem.what)
            return replace(problem, where=found.where, text=found.text, span=found.span)
        left, right = problem.span
        moved = replace(place, column=start + left + 1, width=max(1, right - left))
        found = moved.problem(problem.what)
        return replace(problem, where=found.where, text=found.text, span=found.span)
