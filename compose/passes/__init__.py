"""Rewrites of the graph that leave its outputs unchanged, in the order in which they run."""

from __future__ import annotations

from collections.abc import Collection

from compose.errors import ConfigError, Problem
from compose.graph.graph import Graph
from compose.passes.base import Pass, PassContext
from compose.passes.drop import drop
from compose.passes.fold import fold
from compose.passes.fork import fork
from compose.passes.group import group
from compose.passes.prune import prune
from compose.passes.share import share

PASSES: tuple[Pass, ...] = (drop, prune, share, fork, fold, group)
"""`prune` comes early, so that branches that nobody asked for do not make others part."""

NAMES = tuple(function.__name__ for function in PASSES)

__all__ = ["NAMES", "PASSES", "PassContext", "check_names", "run_passes"]


def check_names(without: Collection[str]) -> None:
    """Raises a `ConfigError` if a pass of that name does not exist."""
    problems = [Problem(f"there is no pass '{name}'", got=name, legal=NAMES) for name in without if name not in NAMES]
    if problems:
        raise ConfigError(problems)


def run_passes(graph: Graph, context: PassContext, without: Collection[str] = ()) -> Graph:
    """The graph after all passes but those named in `without`."""
    for function in PASSES:
        if function.__name__ not in without:
            graph = function(graph, context)
    return graph
