"""Random expressions for property tests.

`expressions` draws what has a meaning, `nestings` anything that can be built.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence

from hypothesis import strategies as st

from compose.dsl import (
    BLOCKS,
    Average,
    BatchSplit,
    Drop,
    Expression,
    Fuse,
    Parallel,
    Route,
    Split,
    Stack,
    outputs,
    own_name,
)
from compose.specs import RESERVED

ALL = tuple(BLOCKS)
SINGLE = tuple(name for name in ALL if name not in ("Parallel", "BatchSplit", "Route"))
"""The blocks that give one output on all rows."""

TASKS = ("t1", "t2", "sst-2", "m.nli", "class", "t3", "t4", "t5")
Draw = Callable[[st.SearchStrategy], object]


@st.composite
def expressions(
    draw: Draw,
    names: Sequence[str],
    max_leaves: int = 6,
    *,
    blocks: Sequence[str] = ALL,
    layers: int = 4,
    tokens: int = 8,
    rows: int = 4,
    none: bool = True,
    fusible: Sequence[str] | None = None,
) -> Expression:
    """Expressions that `branches` takes, with Drops and sizes that fit a backbone and a batch.

    Args:
        names: adapters to draw from; a Fuse has its own name from them or is called `fused`.
        max_leaves: number of names and Nones at most.
        blocks: names of the blocks to draw from.
        layers: layers of the backbone; Drops stay within.
        tokens, rows: what the sizes of a Split and a BatchSplit add up to.
        none: whether None is drawn.
        fusible: adapters to draw from within a Fuse; all by default.
    """
    budget = draw(st.integers(1, max_leaves))
    grower = Grower(draw, tuple(names), tuple(blocks), layers, none, tuple(names if fusible is None else fusible))
    return grower.grow(budget, tokens, rows, parallel="Parallel" in blocks, rowwise=True)


class Grower:
    """Draws an expression from the top down."""

    def __init__(self, draw, names, blocks, layers, none, fusible):
        self.draw, self.names, self.blocks, self.layers, self.none = draw, names, blocks, layers, none
        self.fusible = fusible

    def grow(self, budget, tokens, rows, parallel, rowwise, depth=0):
        """An expression of at most `budget` leaves; `parallel`, `rowwise`: what may occur in it."""
        legal = [
            name
            for name in self.blocks
            if (name != "Parallel" or parallel)
            and (name != "Route" or rowwise)
            and (name != "BatchSplit" or (rowwise and rows >= 2))
        ]
        if depth >= 6 or not legal or self.draw(st.integers(0, 3 if budget > 1 else 1)) == 0:
            return self.leaf()
        kind = self.draw(st.sampled_from(legal))
        shares = [budget] if kind == "Drop" else self.shares(budget)

        def child(share, tokens=tokens, rows=rows, parallel=False, rowwise=rowwise):
            return self.grow(share, tokens, rows, parallel, rowwise, depth + 1)

        if kind == "Stack":
            lucky = self.draw(st.integers(0, len(shares) - 1)) if parallel else -1
            return Stack(*(child(share, parallel=index == lucky) for index, share in enumerate(shares)))
        if kind == "Drop":
            return Drop(child(budget, parallel=parallel), **self.dropped())
        if kind == "Fuse":
            outside, self.names = self.names, self.fusible
            children = [child(share) for share in shares]
            self.names = outside
            named = own_name(Fuse(*children)) is not None and self.draw(st.booleans())
            return Fuse(*children) if named else Fuse(*children, name="fused")
        if kind == "Average":
            children = [child(share) for share in shares]
            normalize = self.draw(st.booleans())
            weight = st.floats(0.1, 2.0) if normalize else st.just(0.0) | st.floats(-1.0, 2.0)
            weights = st.lists(weight, min_size=len(shares), max_size=len(shares))
            return Average(*children, weights=self.draw(st.none() | weights), normalize=normalize)
        if kind in ("Split", "BatchSplit"):
            total = tokens if kind == "Split" else rows
            sizes, spans = self.sizes(total, len(shares))
            if kind == "Split":
                children = [child(s, tokens=span) for s, span in zip(shares, spans)]  # noqa: B905
                return Split(*children, sizes=sizes)
            children = [child(s, rows=span) for s, span in zip(shares, spans)]  # noqa: B905
            return BatchSplit(*children, sizes=sizes)
        tasks = self.draw(st.permutations(TASKS))
        if kind == "Route":
            return Route(dict(zip(tasks, (child(share, rowwise=False) for share in shares))))  # noqa: B905
        return self.parallel([child(share, parallel=True) for share in shares], tasks)

    def parallel(self, children, tasks):
        """A Parallel with keywords where they mean something."""
        inside = [child for child in children if many(child)]
        rest = [child for child in children if not many(child)]
        cut = self.draw(st.integers(0, len(rest)))
        named = dict(zip(tasks, rest[cut:]))  # noqa: B905
        unnamed = [*inside, *rest[:cut]]
        return Parallel(*unnamed, named) if named else Parallel(*unnamed)

    def leaf(self):
        return None if self.none and self.draw(st.integers(0, 7)) == 7 else self.draw(st.sampled_from(self.names))

    def shares(self, budget):
        """`budget` leaves dealt out to at least one child, at most 8."""
        count = self.draw(st.integers(min(2, budget), min(budget, 4)))
        shares = [1] * count
        for _ in range(budget - count):
            shares[self.draw(st.integers(0, count - 1))] += 1
        return shares

    def sizes(self, total, count):
        """Sizes that add up to `total`, one of them perhaps None, and the same with numbers only."""
        cuts = sorted(self.draw(st.lists(st.integers(0, total), min_size=count - 1, max_size=count - 1)))
        spans = [end - start for start, end in zip([0, *cuts], [*cuts, total], strict=True)]
        rest = self.draw(st.integers(-1, count - 1))
        return [None if index == rest else span for index, span in enumerate(spans)], spans

    def dropped(self):
        number = st.integers(0, self.layers)
        pair = st.tuples(number, number).map(lambda ends: tuple(sorted(ends)))
        chosen = st.lists(st.integers(0, self.layers - 1), max_size=self.layers)
        return self.draw(
            st.fixed_dictionaries({"first": number | pair})
            | st.fixed_dictionaries({"last": number})
            | st.fixed_dictionaries({"layers": chosen})
        )


def many(expression: Expression) -> bool:
    """Whether a keyword would not name the one output of an expression."""
    if "Parallel(" in repr(expression):
        return True
    found = outputs(expression)
    return len(found) != 1 or bool(found[0].rows)


NAMES = st.text(string.ascii_letters + string.digits + "_-.", min_size=1, max_size=64).filter(
    lambda name: name not in RESERVED and bool(name.strip("."))
)


NUMBER = st.integers(0, 40)
RANGE = st.tuples(NUMBER, NUMBER).map(lambda ends: tuple(sorted(ends)))
FINITE = st.floats(allow_nan=False, allow_infinity=False)
LONG = st.lists(NAMES, min_size=1, max_size=3).map(",".join)


def nestings(names: st.SearchStrategy[str] = NAMES, max_leaves: int = 12) -> st.SearchStrategy[Expression]:
    """Anything that can be built, whether it has a meaning or not.

    Args:
        names: a strategy for adapter names.
        max_leaves: number of names and Nones at most.
    """
    return st.recursive(st.none() | names, nested, max_leaves=max_leaves)


@st.composite
def nested(draw, inner):
    """A block around expressions that `inner` draws."""
    kind = draw(st.sampled_from(list(BLOCKS.values())))
    if kind is Drop:
        options = draw(
            st.fixed_dictionaries({"first": NUMBER | RANGE})
            | st.fixed_dictionaries({"last": NUMBER})
            | st.fixed_dictionaries({"layers": st.lists(NUMBER, max_size=5)})
        )
        return Drop(draw(inner), **options)
    if kind is Route:
        return Route(draw(st.dictionaries(LONG, inner, min_size=1, max_size=4)))
    children = draw(st.lists(inner, min_size=1, max_size=4))
    count = len(children)
    if kind is Parallel:
        named = draw(st.none() | st.dictionaries(LONG, inner, min_size=1, max_size=3))
        return Parallel(*children[draw(st.integers(0, count)) :], named) if named else Parallel(*children)
    if kind is Fuse:
        return Fuse(*children, name=draw(st.none() | LONG))
    if kind is Average:
        normalize = draw(st.booleans())
        weight = st.floats(0.01, 1e6) if normalize else FINITE
        weights = draw(st.none() | st.lists(weight, min_size=count, max_size=count))
        return Average(*children, weights=weights, normalize=normalize)
    if kind is Stack:
        return Stack(*children)
    sizes = draw(st.lists(NUMBER, min_size=count, max_size=count))
    rest = draw(st.integers(-1, count - 1))
    return kind(*children, sizes=[None if index == rest else size for index, size in enumerate(sizes)])
