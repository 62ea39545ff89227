"""Pictures of graphs: Mermaid and Graphviz. Consecutive layers that do the same are one box."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from compose.graph.graph import Graph, Operation
from compose.specs import EMBED, STATES

SHOWN = frozenset({"adapter", "increment", "fuse", "mixture", "average", "sum", "split", "join"})
NAMED = frozenset({"adapter", "increment", "fuse", "mixture"})


@dataclass
class Box:
    """A box of a picture.

    Args:
        title: what it is: layers, input, a head.
        lines: what acts in it, a line for each site.
        sources: the boxes that lead to it.
        layers: the first and last layer; None outside the layers.
        sublayers: those of a layer that it runs, where branches part inside, or `end`; empty for all.
    """

    title: str
    lines: tuple[str, ...] = ()
    sources: list[int] = field(default_factory=list)
    layers: tuple[int, int] | None = None
    sublayers: tuple[str, ...] = ()

    def text(self) -> tuple[str, ...]:
        """Its lines, the title first."""
        if self.layers is None:
            return (self.title, *self.lines)
        first, last = self.layers
        where = f"layer {first}" if first == last else f"layers {first}-{last}"
        return (f"{where}: {', '.join(self.sublayers)}" if self.sublayers else where, *self.lines)


def mermaid(graph: Graph) -> str:
    """The graph as a Mermaid flowchart, from top to bottom."""
    boxes = picture(graph)
    lines = ["flowchart TD"]
    for number, box in enumerate(boxes):
        shown = "<br/>".join(_escaped(line) for line in box.text())
        lines.append(f'  n{number}["{shown}"]')
    lines += [f"  n{source} --> n{number}" for number, box in enumerate(boxes) for source in box.sources]
    return "\n".join(lines) + "\n"


def dot(graph: Graph) -> str:
    """The graph in the language of Graphviz."""
    boxes = picture(graph)
    lines = ["digraph plan {", "  node [shape=box, style=rounded];"]
    for number, box in enumerate(boxes):
        shown = "\\n".join(line.replace("\\", "\\\\").replace('"', '\\"') for line in box.text())
        lines.append(f'  n{number} [label="{shown}"];')
    lines += [f"  n{source} -> n{number};" for number, box in enumerate(boxes) for source in box.sources]
    return "\n".join([*lines, "}"]) + "\n"


def _escaped(text: str) -> str:
    for character, entity in (("&", "#amp;"), ('"', "#quot;"), ("<", "#lt;"), (">", "#gt;")):
        text = text.replace(character, entity)
    return text


def picture(graph: Graph) -> list[Box]:
    """The boxes of a graph: inputs, layers (cut where branches part inside), heads."""
    every = _sublayers(graph, graph)
    boxes: list[Box] = []
    box_of: dict[int, int] = {}
    for nodes in _pieces(graph):
        operation = graph.operation(nodes[0])
        sources = {source for node in nodes for source in graph.inputs(node)} - set(nodes)
        box = Box(_title(operation), sources=sorted({box_of[source] for source in sources}))
        if operation.site == STATES:
            box.title = "all layers' states" if operation.kind == "states" else "after the layers"
            box.lines = _lines(graph, nodes)
        elif operation.site == EMBED:
            box.title, box.lines = "after the embeddings", _lines(graph, nodes)
        elif not box.title:
            run = _sublayers(graph, nodes).get(operation.layer, ())
            box.lines, box.layers = _lines(graph, nodes), (operation.layer, operation.layer)
            box.sublayers = () if run == every[operation.layer] else run or ("end",)
        boxes.append(box)
        box_of.update(dict.fromkeys(nodes, len(boxes) - 1))
    return _joined(boxes)


def _title(operation: Operation) -> str:
    """What a box outside the layers is called, empty for one inside."""
    if operation.kind == "embed":
        return f"{operation.stack} input" if operation.stack else "input"
    if operation.kind == "fork":
        return f"branch {operation.branch}"
    if operation.kind == "head":
        return "output" if operation.task is None else f"head {operation.task}"
    return ""


def _pieces(graph: Graph) -> list[list[int]]:
    """The nodes of each box, in an order in which boxes follow what they read.

    Nodes of a layer are together if the same states that leave the layer need them.
    """
    needed_by: dict[int, set[int]] = {node: set() for node in graph}
    ends = set(graph.states.values())
    for node in reversed(range(len(graph))):
        operation = graph.operation(node)
        readers = [reader for reader in graph.consumers(node) if not _title(graph.operation(reader))]
        inner = [reader for reader in readers if graph.operation(reader).layer == operation.layer]
        if node in ends or len(inner) < len(graph.consumers(node)):
            needed_by[node].add(node)
        for reader in inner:
            needed_by[node] |= needed_by[reader]
    found: dict[tuple[int, ...], list[int]] = {}
    for node in graph:
        operation = graph.operation(node)
        if operation.kind == "head":
            key: tuple[int, ...] = (len(graph), 0, node)
        elif _title(operation):
            key = (operation.layer, -len(graph) if operation.kind == "embed" else 1 - len(graph), node)
        elif needed_by[node]:
            key = (operation.layer, -len(needed_by[node]), *sorted(needed_by[node]))
        else:  # a pass has yet to remove it
            continue
        found.setdefault(key, []).append(node)
    return [found[key] for key in sorted(found)]


def _sublayers(graph: Graph, nodes: Iterable[int]) -> dict[int, tuple[str, ...]]:
    """The sub-layers that nodes run, by layer."""
    found: dict[int, dict[str, None]] = {}
    for node in sorted(nodes):
        operation = graph.operation(node)
        if operation.kind == "part":
            found.setdefault(operation.layer, {})[operation.site] = None
    return {layer: tuple(sites) for layer, sites in found.items()}


def _lines(graph: Graph, inside: Iterable[int]) -> tuple[str, ...]:
    """A line for each site at which something acts."""
    by_site: dict[str, list[str]] = {}
    for node in sorted(inside):
        operation = graph.operation(node)
        if operation.kind in SHOWN:
            kind = "" if operation.kind in ("adapter", "increment") else f"{operation.kind} "
            shown = f"{kind}{operation.name}" if operation.kind in NAMED else operation.kind
            by_site.setdefault(operation.site, []).append(shown)
    return tuple(f"{site}: {', '.join(dict.fromkeys(acts))}" for site, acts in by_site.items())


def _joined(boxes: list[Box]) -> list[Box]:
    """Boxes of layers that follow each other alone and do the same, as one."""
    readers: dict[int, int] = {}
    for box in boxes:
        for source in box.sources:
            readers[source] = readers.get(source, 0) + 1
    kept: list[Box] = []
    place: dict[int, int] = {}
    for number, box in enumerate(boxes):
        if len(box.sources) == 1 and readers[box.sources[0]] == 1 and box.layers and not box.sublayers:
            before = kept[place[box.sources[0]]]
            alike = before.lines == box.lines and not before.sublayers
            if before.layers and alike and before.layers[1] + 1 == box.layers[0]:
                before.layers = (before.layers[0], box.layers[1])
                place[number] = place[box.sources[0]]
                continue
        kept.append(Box(box.title, box.lines, [place[source] for source in box.sources], box.layers, box.sublayers))
        place[number] = len(kept) - 1
    return kept
