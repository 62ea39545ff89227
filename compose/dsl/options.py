"""Checks and canonical forms of what blocks are built from.

Each `take_*` function returns the canonical value and adds what is wrong to a `Faults`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Set
from itertools import islice
from numbers import Integral, Real

from compose.dsl.names import shorten
from compose.errors import ExpressionError, Problem

MAX_ITEMS = 10_000
MAX_NUMBER = 2**31 - 1

Place = int | str | None
"""Where in a block a fault is: a child's index, a keyword, or (None) the block as a whole."""


class BlockError(ExpressionError):
    """A block that cannot be built; `places` says for each problem where in the block it is."""

    def __init__(self, problems: Iterable[Problem], places: Iterable[Place] = ()) -> None:
        super().__init__(tuple(problems))
        self.places = tuple(places)


class Faults:
    """Collects what is wrong with one block, so that all of it is said at once."""

    def __init__(self, block: str) -> None:
        self.block = block
        self.problems: list[Problem] = []
        self.places: list[Place] = []

    def add(self, place: Place, what: str, why: str = "", hint: str = "") -> None:
        """Note one fault."""
        where = self.block
        if isinstance(place, int):
            where += f", child {place + 1}"
        elif isinstance(place, str):
            where += f", {place}"
        self.problems.append(Problem(what, where=where, why=why, hint=hint))
        self.places.append(place)

    def raise_any(self) -> None:
        """Raise what was found, if anything."""
        if self.problems:
            raise BlockError(self.problems, self.places)


def whole(value: object) -> int | None:
    """A whole number from 0 on as an int, None for anything else (a bool is no number).

    >>> whole(3), whole(True), whole(-1), whole(2.0)
    (3, None, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        return None
    number = int(value)
    return number if 0 <= number <= MAX_NUMBER else None


def items(value: object, ordered: bool) -> tuple[object, ...] | None:
    """The items of a list or another iterable, None for anything else."""
    if isinstance(value, str | bytes | Mapping) or (ordered and isinstance(value, Set)):
        return None
    if not isinstance(value, Iterable):
        return None
    return tuple(islice(value, MAX_ITEMS + 1))


def take_sizes(faults: Faults, value: object, children: int) -> tuple[int | None, ...]:
    """Sizes of a split: one per child, at most one of them None."""
    legal = f"one whole number per child, e.g. sizes=[{', '.join(['2'] * max(children - 1, 0) + ['None'])}]"
    if value is None:
        faults.add(None, "sizes are missing", hint=legal if children <= 8 else "")
        return ()
    listed = items(value, ordered=True)
    if listed is None:
        faults.add("sizes", f"sizes must be a list, not {shorten(value)}", hint="sizes=[2, None]")
        return ()
    bad = [item for item in listed if item is not None and whole(item) is None]
    for item in bad[:8]:
        faults.add("sizes", f"{shorten(item)} is not a size", why="a size is a whole number from 0 on, or None")
    if len(listed) != children:
        faults.add("sizes", f"{len(listed)} sizes for {children} children", why="each child has one size")
    if sum(item is None for item in listed) > 1:
        faults.add("sizes", "more than one size is None", why="None is the rest, and there is one rest")
    return tuple(None if item is None else whole(item) for item in listed)


def take_weights(faults: Faults, value: object, children: int, normalize: object) -> tuple[float, ...] | None:
    """Weights of an average: one finite number per child, with a sum if they are to be normalised."""
    if value is None:
        return None
    listed = items(value, ordered=True)
    if listed is None:
        faults.add("weights", f"weights must be a list, not {shorten(value)}", hint="weights=[0.7, 0.3]")
        return None
    weights: list[float] = []
    for item in listed:
        weight = finite(item)
        if weight is None:
            faults.add("weights", f"{shorten(item)} is not a weight", why="a weight is a finite number")
        else:
            weights.append(weight)
    if len(listed) != children:
        faults.add("weights", f"{len(listed)} weights for {children} children", why="each child has one")
    elif len(weights) == children and normalize is True and not summable(weights):
        why = "normalised weights are divided by their sum"
        faults.add("weights", "the weights have no usable sum", why=why, hint="normalize=False takes any")
    return tuple(weights)


def finite(value: object) -> float | None:
    """A finite number as a float, None for anything else."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    try:
        number = float(value) + 0.0  # -0.0 becomes 0.0: equal values have one text
    except (OverflowError, ValueError):
        return None
    return number if math.isfinite(number) else None


def summable(weights: list[float]) -> bool:
    """Whether weights can be divided by their sum: it is neither rounding noise nor infinite."""
    scale = max((abs(weight) for weight in weights), default=0.0)
    if scale < 1e-300 or scale > 1e300:
        return False
    return abs(math.fsum(weight / scale for weight in weights)) > 1e-9


def take_layers(faults: Faults, value: object) -> tuple[int, ...]:
    """Layers to drop: sorted, without repeats."""
    listed = items(value, ordered=False)
    if listed is None:
        faults.add("layers", f"layers must be a list, not {shorten(value)}", hint="layers=[0, 1]")
        return ()
    if len(listed) > MAX_ITEMS:
        faults.add("layers", f"more than {MAX_ITEMS} layers")
        return ()
    layers: set[int] = set()
    bad = 0
    for item in listed:
        layer = whole(item)
        if layer is not None:
            layers.add(layer)
        elif (bad := bad + 1) <= 8:
            faults.add("layers", f"{shorten(item)} is not a layer", why="layers are numbered from 0")
    return tuple(sorted(layers))


def take_first(faults: Faults, value: object) -> int | tuple[int, int] | None:
    """How many first layers to drop: a number, or the range that it is drawn from."""
    number = whole(value)
    if number is not None:
        return number
    ends = None if isinstance(value, Real) else items(value, ordered=True)
    if ends is not None and len(ends) == 2:
        low, high = whole(ends[0]), whole(ends[1])
        if low is not None and high is not None:
            if low <= high:
                return (low, high)
            faults.add("first", f"the range {(low, high)} is empty", hint=f"first={(high, low)}")
            return None
    why = "it is a whole number from 0 on, or a range of two that a step draws from, both included"
    faults.add("first", f"first cannot be {shorten(value)}", why=why, hint="first=5 or first=(0, 10)")
    return None


def take_last(faults: Faults, value: object) -> int | None:
    """How many last layers to drop."""
    number = whole(value)
    if number is None:
        faults.add("last", f"last cannot be {shorten(value)}", why="it is a whole number from 0 on")
    return number
