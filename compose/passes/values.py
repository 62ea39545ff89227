"""Numbers the values of a graph: two nodes of one number always compute the same."""

from __future__ import annotations

from compose.graph.graph import Graph


def value_numbers(graph: Graph) -> list[int]:
    """A number for each node; a fork only hands on, so it has its input's number."""
    known: dict[tuple[object, ...], int] = {}
    numbers: list[int] = []
    for node, operation, sources in graph.nodes():
        inputs = tuple([numbers[source] for source in sources])
        if operation.kind == "fork":
            numbers.append(inputs[0])
        elif operation.kind == "head":
            numbers.append(-1 - node)
        else:
            numbers.append(known.setdefault((operation, inputs), len(known)))
    return numbers


def branch_numbers(graph: Graph) -> list[int]:
    """The branch that each node belongs to, before branches share anything; -1 for what lies before."""
    branches: list[int] = []
    for _, operation, inputs in graph.nodes():
        if operation.kind == "fork":
            branches.append(operation.branch)
        else:
            branches.append(branches[inputs[0]] if inputs else -1)
    return branches
