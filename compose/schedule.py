"""From a graph to a plan: in which layers which rows exist, and in which order each site's nodes run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from compose.graph.graph import PLAIN, STARTS, Graph
from compose.plan import LayerRows, Output, Plan, SiteKey, SiteProgram, Step, added_tokens
from compose.specs import LAYER, BackboneSpec, Closing, LayerSpec, SiteSpec


@dataclass
class _Line:
    """The way of one branch through the graph, by layer and sub-layer."""

    parts: dict[SiteKey, int] = field(default_factory=dict)
    closes: dict[SiteKey, int] = field(default_factory=dict)
    embeds: dict[int, int] = field(default_factory=dict)

    def end(self, layer: LayerSpec) -> int:
        """The state that a layer hands on."""
        return self.closes.get((layer.index, LAYER), self.inside(layer))

    def inside(self, layer: LayerSpec) -> int:
        """The state that leaves the last sub-layer."""
        exits = [(layer.index, site.name) for site in layer.sublayers[-1].exits]
        return next(self.closes[key] for key in reversed(exits) if key in self.closes)


class _Station(NamedTuple):
    """A site from which states leave.

    Args:
        site: its name.
        inner: the sites of the values that are read on the way to it.
        unfolds: a residual is yet to be added to what leaves, so that branches part in a dimension of their own.
    """

    site: str
    inner: tuple[SiteSpec, ...]
    unfolds: bool


class _Classes:
    """Nodes that some branches have in common, numbered in the order of the branches."""

    def __init__(self, nodes: Iterable[int]) -> None:
        self.nodes = list(dict.fromkeys(nodes))
        self.of = {node: index for index, node in enumerate(self.nodes)}

    def __len__(self) -> int:
        return len(self.nodes)


def schedule(graph: Graph, backbone: BackboneSpec, branch_count: int, training: bool = False) -> Plan:
    """Schedules a graph of `branch_count` branches, some of which may have been pruned."""
    return _Scheduler(graph, backbone).plan(branch_count, training)


class _Scheduler:
    def __init__(self, graph: Graph, backbone: BackboneSpec) -> None:
        self.graph = graph
        self.backbone = backbone
        self.lines = [self._line(state) for state in graph.states.values()]
        self.programs: dict[SiteKey, SiteProgram] = {}

    def plan(self, branch_count: int, training: bool) -> Plan:
        layers: list[LayerRows] = []
        states = self.starts = self._before_layers()
        entry: tuple[int, ...] = (0,)
        earlier = {1: (0,) * len(states), len(states): tuple(range(len(states)))}
        memory: tuple[int, ...] = (0,)
        begin = len(states)
        for layer in self.backbone.layers:
            if layer.index and layer.index in self.lines[0].embeds:
                embeds = _Classes(line.embeds[layer.index] for line in self.lines)
                entry = tuple(states.of[self.graph.inputs(node)[0]] for node in embeds.nodes)
                memory = tuple(earlier[begin][end] for end in entry)
                states, begin, earlier = embeds, len(embeds), {len(embeds): tuple(range(len(embeds)))}
            stations = self._stations(layer)
            parts = [_Classes(line.parts[layer.index, at.site] for line in self.lines) for at in stations]
            gather = tuple(states.of[self._state(node)] for node in parts[0].nodes)
            identity = gather == tuple(range(len(states)))
            earlier = _gathered(earlier, gather)
            repeats = {count: sources for count, sources in earlier.items() if count != len(gather)}
            earlier[len(gather)] = tuple(range(len(gather)))
            states = _Classes(line.inside(layer) for line in self.lines)
            unfolds = self._layer_programs(layer, stations, parts, states)
            inside = [parts[0].of[self._first_part(node, layer)] for node in states.nodes]
            begun = tuple(earlier[begin][entered] for entered in inside)
            states = self._on_states((layer.index, LAYER), states)
            layers.append(LayerRows(None if identity else gather, len(parts[0]), repeats, unfolds, begun))
            leaving = [parts[0].of[self._first_part(node, layer)] for node in states.nodes]
            earlier = _gathered(earlier, leaving)
        classes = len(states)
        ends = self._after_layers(states)
        aggregates = self.backbone.states_key in self.programs
        lines = zip(self.graph.states, self.lines, strict=True)
        starts = {branch: self.starts.of[self._start(line)] for branch, line in lines}
        return Plan(
            expression=self.graph.expression,
            backbone=self.backbone,
            graph=self.graph,
            layers=tuple(layers),
            programs=self.programs,
            entry=entry,
            branches=tuple(ends.get(branch) for branch in range(branch_count)),
            classes=classes,
            outputs=tuple(self._output(node) for node in self.graph.outputs),
            training=training,
            given=self._given(states) if aggregates else (),
            memory=memory,
            added_tokens=added_tokens(self.programs.get(self.backbone.embed_key)),
            starts=tuple(starts.get(branch) for branch in range(branch_count)),
        )

    def _before_layers(self) -> _Classes:
        """Schedules what acts on the embeddings' output; the classes that come to the first layer."""
        states, key = _Classes(line.embeds[0] for line in self.lines), self.backbone.embed_key
        if key not in self.lines[0].closes:
            return states
        values, ends = (_Classes(getattr(line, what)[key] for line in self.lines) for what in ("parts", "closes"))
        leaving = [self.graph.inputs(close)[0] for close in ends.nodes]
        if self._add(key, values.nodes, leaving, ends.nodes) is not None:
            return ends
        states.of |= dict.fromkeys(ends.nodes, 0)  # nothing acts: all begin with what the embeddings give
        return states

    def _after_layers(self, states: _Classes) -> dict[int, int]:
        """Schedules what acts on all layers' states; for each branch its class among those that heads read."""
        states = self._on_states(self.backbone.states_key, states)
        return {branch: states.of[self._unfork(node)] for branch, node in self.graph.states.items()}

    def _on_states(self, key: SiteKey, states: _Classes) -> _Classes:
        """Schedules what acts at a site on the states themselves, if anything does; the states after it."""
        if key not in self.lines[0].closes:
            return states
        roots = {self._state(line.parts[key]): line.parts[key] for line in self.lines}
        ends = _Classes(line.closes[key] for line in self.lines)
        values = [self.graph.inputs(close)[0] for close in ends.nodes]
        self._add(key, [roots[state] for state in states.nodes], values, ends.nodes)
        return ends

    def _given(self, ends: _Classes) -> tuple[tuple[int, ...], ...]:
        """For each layer and each class at the end of the layers the class at the layer's input."""
        layers = self.backbone.layers
        last = {line.end(layers[-1]): line for line in self.lines}
        inputs = [self.starts]
        inputs += [_Classes(line.end(layer) for line in self.lines) for layer in layers[:-1]]
        found = []
        for number, classes in enumerate(inputs):
            nodes = [last[end].end(layers[number - 1]) if number else self._start(last[end]) for end in ends.nodes]
            found.append(tuple(classes.of[node] for node in nodes))
        return tuple(found)

    def _start(self, line: _Line) -> int:
        """The state with which a branch comes to the first layer."""
        return line.closes.get(self.backbone.embed_key, line.embeds[0])

    def _stations(self, layer: LayerSpec) -> list[_Station]:
        """Where a state leaves on the way through a layer: after each sub-layer, and at LayerNorms that are adapted."""
        return [
            _Station(site.name, sublayer.inner if site == sublayer.site else (), sublayer.norm == "pre")
            for sublayer in layer.sublayers
            for site in sublayer.exits
            if (layer.index, site.name) in self.lines[0].closes
        ]

    def _layer_programs(
        self, layer: LayerSpec, stations: list[_Station], parts: list[_Classes], states: _Classes
    ) -> bool:
        """Schedules the sites of a layer; True if branches part inside it before a residual addition."""
        unfolds = False
        for index, station in enumerate(stations):
            for inner in station.inner:
                values = [self._inner(part, inner.name) for part in parts[index].nodes]
                if any(values):
                    entering = [self._root(value) if value else None for value in values]
                    self._add((layer.index, inner.name), entering, values, [None] * len(values))
            last = index + 1 == len(parts)
            leaving = states.nodes if last else [self._state(node) for node in parts[index + 1].nodes]
            program = self._add(
                (layer.index, station.site),
                list(parts[index].nodes),
                [self.graph.inputs(close)[0] for close in leaving],
                leaving,
            )
            unfolds |= program is not None and program.forks and station.unfolds
        return unfolds

    def _add(
        self,
        key: SiteKey,
        entering: Sequence[int | None],
        leaving: Sequence[int | None],
        closes: Sequence[int | None],
    ) -> SiteProgram | None:
        """The program that turns the values `entering` into those `leaving`, if anything is to be done.

        A class without a value at the site (None) is handed on as it is.
        """
        closings = tuple(self._closing(close) for close in closes)
        if list(entering) == list(leaving) and set(closings) == {"backbone"}:
            return None
        roots = {node: index for index, node in enumerate(entering) if node is not None}
        levels = self._levels([node for node in leaving if node is not None], roots)
        registers = dict(roots)
        steps: list[Step] = []
        for nodes in _together(self.graph, levels):
            inputs = tuple(tuple(registers[source] for source in self.graph.inputs(node)) for node in nodes)
            for node in nodes:
                registers[node] = len(entering) + len(registers) - len(roots)
            operations = tuple(self.graph.operation(node) for node in nodes)
            steps.append(Step(operations, inputs, tuple(registers[node] for node in nodes)))
        results = tuple(index if node is None else registers[node] for index, node in enumerate(leaving))
        sources = tuple(index if node is None else roots[self._root(node)] for index, node in enumerate(leaving))
        program = SiteProgram(*key, len(entering), tuple(steps), results, sources, closings)
        self.programs[key] = program
        return program

    def _levels(self, targets: list[int], roots: dict[int, int]) -> dict[int, int]:
        """The nodes of a site that `targets` need, each with its longest distance from the values."""
        pending, found = list(targets), set()
        while pending:
            node = pending.pop()
            if node not in found and node not in roots:
                found.add(node)
                pending.extend(self.graph.inputs(node))
        levels: dict[int, int] = {}
        for node in sorted(found):
            levels[node] = 1 + max(levels.get(source, 0) for source in self.graph.inputs(node))
        return levels

    def _line(self, state: int) -> _Line:
        line, node = _Line(), self._unfork(state)
        while True:
            operation = self.graph.operation(node)
            if operation.kind == "close":
                line.closes[operation.layer, operation.site] = node
                node = self._root(node)
                line.parts[operation.layer, operation.site] = node
            else:
                line.embeds[max(operation.layer, 0)] = node
                if not self.graph.inputs(node):
                    return line
            node = self._state(node)

    def _inner(self, part: int, site: str) -> int | None:
        """The value that a part is given for its LayerNorm or a linear map, None if nothing acts on it."""
        for node in self.graph.inputs(part)[1:]:
            operation = self.graph.operation(node)
            if operation.site == site and operation.kind not in PLAIN:
                return node
        return None

    def _root(self, node: int) -> int:
        """The value that a node of a site starts from."""
        while self.graph.operation(node).kind not in STARTS:
            node = self.graph.inputs(node)[0]
        return node

    def _state(self, node: int) -> int:
        """The state that a part or a decoder's embedding reads."""
        return self._unfork(self.graph.inputs(node)[0])

    def _unfork(self, node: int) -> int:
        while self.graph.operation(node).kind == "fork":
            node = self.graph.inputs(node)[0]
        return node

    def _first_part(self, close: int, layer: LayerSpec) -> int:
        """The part with which the way to a layer's last state entered the layer."""
        node = self._root(close)
        while self.graph.operation(node).site != layer.sublayers[0].name:
            node = self._root(self._state(node))
        return node

    def _closing(self, close: int | None) -> Closing:
        return "backbone" if close is None else self.graph.operation(close).closing

    def _output(self, node: int) -> Output:
        operation = self.graph.operation(node)
        return Output(operation.task, operation.name or None, operation.branch, operation.rows)


def _gathered(earlier: dict[int, tuple[int, ...]], sources: Sequence[int]) -> dict[int, tuple[int, ...]]:
    """Where classes come from that themselves come from `sources`."""
    return {count: tuple(classes[source] for source in sources) for count, classes in earlier.items()}


def _together(graph: Graph, levels: dict[int, int]) -> list[list[int]]:
    """The nodes in an order in which they can run; those of one group and level in one step."""
    steps: dict[tuple[int, int, int], list[int]] = {}
    for node in sorted(levels, key=lambda node: (levels[node], node)):
        number = graph.operation(node).group
        steps.setdefault((levels[node], number, -1 if number >= 0 else node), []).append(node)
    return list(steps.values())
