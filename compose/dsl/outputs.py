"""What one branch of an expression puts out: its tasks, their heads, and the rows that are theirs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeAlias

from compose.dsl.block import Expression
from compose.dsl.blocks import BatchSplit, Drop, Parallel, Route, Stack
from compose.dsl.tree import own_name
from compose.errors import CompileError


@dataclass(frozen=True)
class Slice:
    """Selects the `index`-th of consecutive row spans; a size of None takes the rest."""

    index: int
    sizes: tuple[int | None, ...]


@dataclass(frozen=True)
class Routed:
    """Selects the rows that the call routes to `task`."""

    task: str


RowSelector: TypeAlias = Slice | Routed


@dataclass(frozen=True)
class Branch:
    """One branch of a plan.

    Args:
        task: the name of its task, None if it has none.
        expression: what acts in it; contains no Parallel.
    """

    task: str | None
    expression: Expression


@dataclass(frozen=True)
class Output:
    """One output of a branch.

    Args:
        task: the name it is found by, None if by position only.
        head: the name of the head that gives it.
        rows: its rows, each selector applied to what those before it left; all if empty.
    """

    task: str | None
    head: str | None
    rows: tuple[RowSelector, ...] = ()


def outputs(branch: Branch | Expression) -> tuple[Output, ...]:
    """The outputs of one branch, in order.

    Args:
        branch: a branch, or the expression of one.

    Returns:
        Its outputs. The task of a branch that has one output on all its rows is that output's.

    Raises:
        CompileError: the expression has branches of its own.

    >>> from compose.dsl.blocks import Fuse
    >>> [output.head for output in outputs(Stack("en", Fuse("a", "b")))]
    ['a,b']
    >>> outputs(Route(nli="a"))
    (Output(task='nli', head='nli', rows=(Routed(task='nli'),)),)
    """
    if isinstance(branch, Branch):
        found = outputs(branch.expression)
        if len(found) == 1 and not found[0].rows:
            return (Output(branch.task, branch.task),)
        return found
    match branch:
        case Parallel():
            raise CompileError("a Parallel has no outputs of its own", hint="those of its branches()")
        case Stack() | Drop():
            return outputs(branch.children[-1])
        case BatchSplit(sizes=sizes):
            return tuple(
                replace(output, rows=(Slice(index, sizes), *output.rows))
                for index, child in enumerate(branch.children)
                for output in outputs(child)
            )
        case Route(tasks=tasks):
            return tuple(
                Output(task, task, (Routed(task), *output.rows))
                for task, child in zip(tasks, branch.children, strict=True)
                for output in outputs(child)
            )
    name = own_name(branch)
    return (Output(name, name),)
