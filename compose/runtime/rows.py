"""Which rows and tokens selectors take, worked out before a call enters the backbone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from compose.dsl import Routed, Slice
from compose.errors import InputError, Problem
from compose.graph.pieces import Selector, Span
from compose.plan import Plan

Chain = tuple[Selector, ...]
"""Selectors applied one after the other; the last one's rows are counted within those before."""


def resolve_sizes(sizes: Sequence[int | None], total: int, block: str, what: str) -> list[int]:
    """Sizes with the one that is None filled in.

    Raises:
        InputError: if they do not add up to `total`.
    """
    known = sum(size for size in sizes if size is not None)
    if known > total or (known < total and None not in sizes):
        raise InputError(
            f"the sizes of {block} add up to {known}, but there are {total} {what}",
            hint="None as one of the sizes takes the rest",
        )
    return [total - known if size is None else size for size in sizes]


def places(index: slice | Tensor, device: torch.device) -> Tensor:
    """The positions that an index takes, as a tensor."""
    return torch.arange(index.start, index.stop, device=device) if isinstance(index, slice) else index


def select_rows(chains: Sequence[Chain], batch: int, route: Sequence[str] | None) -> dict[Chain, list[int]]:
    """For each chain of row selectors the batch rows that it takes; nothing if there are no selectors.

    Raises:
        InputError: if sizes do not fit the batch, or rows are routed nowhere.
    """
    if not any(chains):  # a list of all rows would tie code that torch.compile makes to their number
        return {}
    found: dict[Chain, list[int]] = {(): list(range(batch))}
    for chain in sorted(chains, key=len):
        for end in range(1, len(chain) + 1):
            if chain[:end] not in found:
                found[chain[:end]] = _select(chain[end - 1], found[chain[: end - 1]], route)
    return found


def _select(selector: Selector, rows: list[int], route: Sequence[str] | None) -> list[int]:
    if isinstance(selector, Slice):
        sizes = resolve_sizes(selector.sizes, len(rows), "BatchSplit", "rows")
        start = sum(sizes[: selector.index])
        return rows[start : start + sizes[selector.index]]
    if isinstance(selector, Routed):
        assert route is not None, "check_route runs before"
        return [row for row in rows if route[row] == selector.task]
    return rows


def check_route(route: Sequence[str] | None, legal: tuple[str, ...], batch: int) -> list[str] | None:
    """A call's `route`, checked: one name per row, each a task of a Route.

    Raises:
        InputError: naming every row that is wrong.
    """
    if not legal:
        if route is not None:
            raise InputError("this plan has no Route, so `route` means nothing", hint="leave it out")
        return None
    if route is None:
        raise InputError("this plan has a Route: say for each row where it goes", hint=f"route=[{legal[0]!r}, ...]")
    names = [str(name) for name in route]
    problems = [
        Problem(f"route[{row}] is '{name}'", got=name, legal=legal)
        for row, name in enumerate(names)
        if name not in legal
    ]
    if len(names) != batch:
        problems.insert(0, Problem(f"route has {len(names)} names for {batch} rows"))
    if problems:
        raise InputError(problems)
    return names


def route_names(plan: Plan) -> tuple[str, ...]:
    """The tasks of the plan's Routes."""
    from compose.dsl import Route, walk

    return tuple(
        dict.fromkeys(task for _, node in walk(plan.expression) if isinstance(node, Route) for task in node.tasks)
    )


def local_index(rows: list[int], within: list[int], device: torch.device) -> slice | Tensor:
    """Where `rows` are in `within`: a slice if they are consecutive, so that no copy is needed."""
    position = {row: index for index, row in enumerate(within)}
    index = [position[row] for row in rows]
    if not index or index == list(range(index[0], index[0] + len(index))):
        start = index[0] if index else 0
        return slice(start, start + len(index))
    return torch.tensor(index, device=device)


def span(selector: Span, tokens: int) -> slice:
    """The tokens that a span takes.

    Raises:
        InputError: if the sizes do not fit.
    """
    sizes = resolve_sizes(selector.sizes, tokens, "Split", "tokens")
    start = sum(sizes[: selector.index])
    return slice(start, start + sizes[selector.index])
