"""The blocks of the language."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from compose.dsl.block import Block, Expression, take_children, take_named
from compose.dsl.names import name_problem, plain, shorten
from compose.dsl.options import Faults, take_first, take_last, take_layers, take_sizes, take_weights

Children = Expression | Mapping[str, Expression]


@dataclass(frozen=True, init=False, repr=False)
class Stack(Block):
    """The first child acts, then the next on its result, and so on.

    Args:
        children: at least one expression.

    Raises:
        ExpressionError: no child, or one that is no expression.

    >>> Stack("en", "ner")
    Stack("en", "ner")
    """

    def __init__(self, *children: Expression) -> None:
        faults = Faults("Stack")
        self._fill(faults, take_children(faults, children))


@dataclass(frozen=True, init=False, repr=False)
class Fuse(Block):
    """Attention over the children's increments, with weights kept under the Fuse's own name.

    Args:
        children: at least one expression; None is a candidate whose increment is 0.
        name: the own name; without it, the children's own names joined by commas.

    Raises:
        ExpressionError: no child, one that is no expression, or a name that is not legal.

    >>> Fuse("mnli", "qnli", name="both")
    Fuse("mnli", "qnli", name="both")
    """

    option_names: ClassVar[tuple[str, ...]] = ("name",)
    name: str | None = None

    def __init__(self, *children: Expression, name: str | None = None) -> None:
        faults = Faults("Fuse")
        problem = None if name is None else name_problem(name, "fusion")
        if problem is not None:
            faults.add("name", problem.what, problem.why)
        self._fill(faults, take_children(faults, children), name=None if name is None or problem else plain(name))

    @property
    def options(self) -> dict[str, object]:
        return {} if self.name is None else {"name": self.name}


@dataclass(frozen=True, init=False, repr=False)
class Parallel(Block):
    """One branch per child; each branch is a task with a head of that name.

    Args:
        children: at least one expression; the last positional argument may be a mapping of task to
            expression, for tasks that are no Python identifiers.
        named: further children by task.

    Raises:
        ExpressionError: no child, one that is no expression, a task that is not legal or given twice.

    >>> Parallel("nli", tone=Fuse("sst2", "imdb"))
    Parallel("nli", tone=Fuse("sst2", "imdb"))
    >>> Parallel({"sst-2": "a", "nli": "b"}).tasks
    ('sst-2', 'nli')
    """

    takes_tasks: ClassVar[bool] = True
    tasks: tuple[str | None, ...] = ()

    def __init__(self, /, *children: Children, **named: Expression) -> None:
        faults = Faults("Parallel")
        taken, tasks = take_named(faults, children, named)
        self._fill(faults, taken, tasks=tasks)

    @property
    def labels(self) -> tuple[str | None, ...]:
        return self.tasks


@dataclass(frozen=True, init=False, repr=False)
class Drop(Block):
    """The child, and nothing on the layers that are dropped.

    Args:
        children: the one child.
        first: number of layers dropped from the first on, or a range `(low, high)`, both included, that
            it is drawn from at each training step; a range drops none in evaluation unless asked.
        layers: the layers dropped, numbered from 0.
        last: number of layers dropped from the last back.

    Raises:
        ExpressionError: not one child, or not exactly one of `first`, `layers`, `last`.

    >>> Drop("nli", layers=[3, 1, 1])
    Drop("nli", layers=[1, 3])
    """

    option_names: ClassVar[tuple[str, ...]] = ("first", "layers", "last")
    first: int | tuple[int, int] | None = None
    layers: tuple[int, ...] | None = None
    last: int | None = None

    def __init__(
        self,
        *children: Expression,
        first: int | tuple[int, int] | None = None,
        layers: Iterable[int] | None = None,
        last: int | None = None,
    ) -> None:
        faults = Faults("Drop")
        if len(children) > 1:
            faults.add(1, f"{len(children)} children for a Drop", why="it has one", hint="Drop(Stack(...), ...)")
        given = [
            name for name, value in zip(self.option_names, (first, layers, last), strict=True) if value is not None
        ]
        if len(given) != 1:
            what = f"{' and '.join(given)} at once" if given else "nothing says what to drop"
            faults.add(given[1] if given else None, what, why="a Drop takes exactly one of first, layers, last")
        self._fill(
            faults,
            take_children(faults, children),
            first=None if first is None else take_first(faults, first),
            layers=None if layers is None else take_layers(faults, layers),
            last=None if last is None else take_last(faults, last),
        )

    @property
    def options(self) -> dict[str, object]:
        if self.layers is not None:
            return {"layers": list(self.layers)}
        return {"first": self.first} if self.first is not None else {"last": self.last}


@dataclass(frozen=True, init=False, repr=False)
class Average(Block):
    """The weighted sum of the children's results.

    Args:
        children: at least one expression.
        weights: a number per child; None weighs all alike, with one divided by their number.
        normalize: divide the weights by their sum. If not, the result is y + sum of w (e(y) - y).

    Raises:
        ExpressionError: no child, weights that are not finite, not as many as the children, or (when
            normalised) sum to zero.

    >>> Average("a", "b", weights=[3, 1]).factors
    (0.75, 0.25)
    """

    option_names: ClassVar[tuple[str, ...]] = ("weights", "normalize")
    weights: tuple[float, ...] | None = None
    normalize: bool = True

    def __init__(self, *children: Expression, weights: Iterable[float] | None = None, normalize: bool = True) -> None:
        faults = Faults("Average")
        if not isinstance(normalize, bool):
            faults.add("normalize", f"normalize must be True or False, not {shorten(normalize)}")
        taken = take_children(faults, children)
        self._fill(
            faults,
            taken,
            weights=take_weights(faults, weights, len(children), normalize),
            normalize=normalize,
        )

    @property
    def options(self) -> dict[str, object]:
        options: dict[str, object] = {} if self.weights is None else {"weights": list(self.weights)}
        return options if self.normalize else {**options, "normalize": False}

    @property
    def factors(self) -> tuple[float, ...]:
        """The weights as they are applied, one per child."""
        if self.weights is None:
            return (1 / len(self.children),) * len(self.children)
        if not self.normalize:
            return self.weights
        scale = max(abs(weight) for weight in self.weights)  # so that no sum overflows
        total = math.fsum(weight / scale for weight in self.weights)
        return tuple(weight / scale / total for weight in self.weights)


@dataclass(frozen=True, init=False, repr=False)
class Split(Block):
    """The children act on consecutive spans of tokens.

    Args:
        children: at least one expression.
        sizes: number of tokens of each child's span; one may be None: the rest.

    Raises:
        ExpressionError: no child, or sizes that are missing, not as many as the children, no whole numbers,
            or None more than once.

    >>> Split("a", "b", sizes=(4, None))
    Split("a", "b", sizes=[4, None])
    """

    option_names: ClassVar[tuple[str, ...]] = ("sizes",)
    sizes: tuple[int | None, ...] = ()

    def __init__(self, *children: Expression, sizes: Iterable[int | None] | None = None) -> None:
        faults = Faults("Split")
        self._fill(faults, take_children(faults, children), sizes=take_sizes(faults, sizes, len(children)))

    @property
    def options(self) -> dict[str, object]:
        return {"sizes": list(self.sizes)}


@dataclass(frozen=True, init=False, repr=False)
class BatchSplit(Block):
    """The children act on consecutive rows of the batch; heads follow their rows.

    Args:
        children: at least one expression.
        sizes: number of each child's rows; one may be None: the rest.

    Raises:
        ExpressionError: no child, or sizes that are missing, not as many as the children, no whole numbers,
            or None more than once.

    >>> BatchSplit("a", "b", sizes=[2, 2])
    BatchSplit("a", "b", sizes=[2, 2])
    """

    option_names: ClassVar[tuple[str, ...]] = ("sizes",)
    sizes: tuple[int | None, ...] = ()

    def __init__(self, *children: Expression, sizes: Iterable[int | None] | None = None) -> None:
        faults = Faults("BatchSplit")
        self._fill(faults, take_children(faults, children), sizes=take_sizes(faults, sizes, len(children)))

    @property
    def options(self) -> dict[str, object]:
        return {"sizes": list(self.sizes)}


@dataclass(frozen=True, init=False, repr=False)
class Route(Block):
    """Each row goes to the child that the call's `route` names for it, adapters and heads alike.

    Args:
        children: nothing, or a mapping of task to expression.
        named: children by task.

    Raises:
        ExpressionError: no child, one without a task or that is no expression, a task that is not legal or
            given twice.

    >>> Route(nli="a", tone="b").tasks
    ('nli', 'tone')
    """

    takes_tasks: ClassVar[bool] = True
    tasks: tuple[str, ...] = ()

    def __init__(self, /, *children: Mapping[str, Expression], **named: Expression) -> None:
        faults = Faults("Route")
        given: tuple[Any, ...] = children
        unnamed = given[:-1] if given and isinstance(given[-1], Mapping) else given
        for index in range(len(unnamed)):
            why = "a row's route is the task of a child"
            faults.add(index, "a child of Route without a task", why=why, hint='Route(nli="a", tone="b")')
        taken, tasks = take_named(faults, given, named)
        self._fill(faults, taken, tasks=tasks)

    @property
    def labels(self) -> tuple[str | None, ...]:
        return self.tasks


BLOCKS: dict[str, type[Block]] = {
    kind.__name__: kind for kind in (Stack, Fuse, Parallel, Drop, Average, Split, BatchSplit, Route)
}
