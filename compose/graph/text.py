"""A graph as stable text: a line for each node, called by what it is and not by a number."""

from __future__ import annotations

from collections import Counter

from compose.dsl import Routed, Slice
from compose.graph.graph import Graph, Operation
from compose.graph.pieces import Span


def graph_text(graph: Graph) -> str:
    """The nodes of a graph in order, each with its inputs.

    Nodes of one name are told apart by how many came before. Two graphs of equal text are equal.
    """
    seen: Counter[str] = Counter()
    names: list[str] = []
    lines: list[str] = []
    for node in graph:
        operation = graph.operation(node)
        name = _name(operation)
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name} #{seen[name]}")
        inputs = ", ".join(names[source] for source in graph.inputs(node))
        lines.append(names[node] + _extras(operation) + (f" <- {inputs}" if inputs else ""))
    lines += [f"state of branch {branch}: {names[node]}" for branch, node in sorted(graph.states.items())]
    lines += [f"output {place}: {names[node]}" for place, node in enumerate(graph.outputs)]
    return "\n".join(lines) + "\n"


def _name(operation: Operation) -> str:
    where = f"{operation.layer}.{operation.site}" if operation.site else ""
    if operation.kind == "embed" and operation.layer >= 0:
        where = str(operation.layer)
    return " ".join(word for word in (where, operation.kind, operation.name) if word)


def _extras(operation: Operation) -> str:
    words = [_detail(item) for item in operation.detail]
    if operation.form:
        words.append(operation.form)
    if operation.group >= 0:
        words.append(f"group {operation.group}")
    return f" [{'; '.join(words)}]" if words else ""


def _detail(item: object) -> str:
    if isinstance(item, Slice | Span):
        kind = "rows" if isinstance(item, Slice) else "tokens"
        return f"{kind} {item.index} of {'+'.join('rest' if size is None else str(size) for size in item.sizes)}"
    if isinstance(item, Routed):
        return f"routed to {item.task}"
    if isinstance(item, tuple):
        return f"({', '.join(_detail(part) for part in item)})"
    return f"{item:.6g}" if isinstance(item, float) else str(item)
