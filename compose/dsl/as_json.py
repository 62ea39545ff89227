"""The JSON form of expressions.

A name is a string, nothing is null, and a block is an object: `block`, `children`, for Parallel and
Route `tasks`, and the options that differ from their defaults.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain, count

from compose.dsl.block import MAX_DEPTH, MAX_NODES, Block, Expression, build
from compose.dsl.blocks import BLOCKS
from compose.dsl.names import name_problem, plain, shorten
from compose.dsl.options import BlockError
from compose.errors import ExpressionError, Problem


def to_json(expression: Expression) -> object:
    """The JSON form of an expression, made of dicts, lists, strings, numbers and None.

    >>> from compose.dsl.blocks import Parallel
    >>> to_json(Parallel("a", tone=None))
    {'block': 'Parallel', 'children': ['a', None], 'tasks': [None, 'tone']}
    """
    if not isinstance(expression, Block):
        return expression
    form: dict[str, object] = {"block": type(expression).__name__}
    form["children"] = [to_json(child) for child in expression.children]
    if expression.takes_tasks:
        form["tasks"] = list(expression.labels)
    for name, value in expression.options.items():
        form[name] = list(value) if isinstance(value, tuple) else value
    return form


def from_json(form: object) -> Expression:
    """The expression that a JSON form stands for.

    Args:
        form: what `to_json` gives, after a way through a JSON file or not.

    Returns:
        The expression.

    Raises:
        ExpressionError: the form is not one; all problems at once, each with its path (`$.children[0]`).

    >>> from_json({"block": "Drop", "children": ["a"], "first": 5})
    Drop("a", first=5)
    """
    problems: list[Problem] = []
    expression = read(form, "$", 0, count(1), problems)
    if problems:
        raise ExpressionError(problems)
    return expression


def read(form: object, path: str, depth: int, nodes: Iterator[int], problems: list[Problem]) -> Expression:
    """One node; what is wrong is noted, and the node is None then."""
    number = next(nodes)
    if number > MAX_NODES or depth > MAX_DEPTH:
        if number == MAX_NODES + 1:
            problems.append(Problem("the expression is too large", path, f"at most {MAX_NODES} nodes are legal"))
        elif depth > MAX_DEPTH:
            problems.append(Problem("blocks are nested too deep", path, f"at most {MAX_DEPTH} are legal"))
        return None
    if form is None:
        return None
    if isinstance(form, str):
        problem = name_problem(form, "adapter")
        if problem is not None:
            problems.append(Problem(problem.what, path, problem.why, problem.hint))
        return form
    if not isinstance(form, Mapping):
        why = "an expression is a string, null, or an object with a block and its children"
        problems.append(Problem(f"{shorten(form)} is no expression", path, why))
        return None
    return read_block(form, path, depth, nodes, problems)


def read_block(
    form: Mapping[object, object], path: str, depth: int, nodes: Iterator[int], problems: list[Problem]
) -> Expression:
    """An object as a block."""
    before = len(problems)
    name = form.get("block")
    kind = BLOCKS.get(name) if isinstance(name, str) else None
    if kind is None:
        what = f"no block is called {shorten(name)}" if "block" in form else "the block's name is missing"
        got = plain(name)[:64] if isinstance(name, str) else ""
        problems.append(Problem(what, f"{path}.block", got=got, legal=tuple(BLOCKS)))
    children = form.get("children")
    if not isinstance(children, list | tuple):
        problems.append(Problem("children must be a list", f"{path}.children"))
        children = []
    taken: list[Expression] = []
    for index, child in enumerate(children[: MAX_NODES + 1]):
        taken.append(read(child, f"{path}.children[{index}]", depth + 1, nodes, problems))
    if kind is None:
        return None
    labels = read_tasks(kind, form, path, len(children), problems)
    options = {key: value for key, value in form.items() if key not in ("block", "children", "tasks")}
    for key in [key for key in options if key not in kind.option_names]:
        del options[key]
        legal = ("block", "children", *(["tasks"] if kind.takes_tasks else []), *kind.option_names)
        got = key[:64] if isinstance(key, str) else ""
        problems.append(Problem(f"{kind.__name__} has no {shorten(key)}", path, got=got, legal=legal))
    if len(problems) > before:
        return None
    try:
        return build(kind, taken, labels, {str(key): value for key, value in options.items()})
    except BlockError as error:
        for problem, place in zip(error.problems, error.places, strict=True):
            where = f"{path}.{place}" if isinstance(place, str) and place in options else path
            problems.append(Problem(problem.what, where, problem.why, problem.hint))
        return None


def read_tasks(
    kind: type[Block], form: Mapping[object, object], path: str, children: int, problems: list[Problem]
) -> list[str | None]:
    """The tasks of the children: as many, unnamed ones first, no task twice."""
    none: list[str | None] = [None] * children
    if not kind.takes_tasks:
        if "tasks" in form:
            problems.append(Problem(f"{kind.__name__} has no tasks", f"{path}.tasks"))
        return none
    tasks = form.get("tasks", none)
    if not isinstance(tasks, list | tuple) or len(tasks) != children:
        problems.append(Problem("tasks must be a list with an item per child", f"{path}.tasks"))
        return none
    found = [task for task in tasks if task is not None]
    if list(tasks) != [*chain([None] * (children - len(found)), found)]:
        problems.append(Problem("children without a task come first", f"{path}.tasks"))
    names: set[object] = set()
    for task in found:
        problem = name_problem(task, "task")
        if problem is not None:
            problems.append(Problem(problem.what, f"{path}.tasks", problem.why))
        elif task in names:
            problems.append(Problem(f"two children are called {shorten(task)}", f"{path}.tasks"))
        else:
            names.add(task)
    return list(tasks)
