"""The execution graph: nodes are operations, edges are data. The only module that imports networkx."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple, cast

import networkx as nx

from compose.dsl import Expression
from compose.graph.pieces import Selector
from compose.specs import Closing


class Operation(NamedTuple):
    """What a node computes from its inputs. A tuple, because passes hash every one of them.

    The properties read what `detail` holds for some kinds, as `KINDS` says; other kinds do not have them.

    Args:
        kind: a row of `KINDS`.
        layer: index of the layer, -1 outside the layers.
        site: the site, or for `part` and `close` the sub-layer.
        name: the adapter's, fusion's or head's name.
        detail: parameters of the kind, hashable.
        form: how it is computed, chosen by the passes; the result does not depend on it.
        group: siblings with one number run as one grouped product; -1 for none.
    """

    kind: str
    layer: int = -1
    site: str = ""
    name: str = ""
    detail: tuple[object, ...] = ()
    form: str = ""
    group: int = -1

    @property
    def stack(self) -> str:
        """Of an `embed`: the stack that is entered, empty for the first."""
        return cast(str, self.detail[0]) if self.detail else ""

    @property
    def branch(self) -> int:
        """Of a `fork`: whose copy it makes; of a `head`: whose states it reads."""
        return cast(int, self.detail[0])

    @property
    def changes_tokens(self) -> bool:
        """Whether it is an `adapter` that adds tokens to rows, or moves those that they have."""
        return self.kind == "adapter" and bool(self.detail)

    @property
    def added_tokens(self) -> int:
        """How many tokens it adds to rows: 0 but for some adapters."""
        return cast(int, self.detail[0]) if self.changes_tokens else 0

    @property
    def prepared_by(self) -> str:
        """Of an `increment`, `fuse` or `mixture`: the adapter whose options prepare its input."""
        return cast(str, self.detail[0])

    @property
    def slots(self) -> tuple[bool, ...]:
        """Of a `fuse` or `mixture`: for each candidate whether it is an input; the others add nothing."""
        return cast("tuple[bool, ...]", self.detail[1])

    @property
    def weights(self) -> tuple[float, ...]:
        """Of an `average` or `sum`: what each of its children counts."""
        return cast("tuple[float, ...]", self.detail[0])

    @property
    def selectors(self) -> tuple[Selector, ...]:
        """Of a `split`: what it takes, as the only one; of a `join`: where each piece goes."""
        return cast("tuple[Selector, ...]", self.detail)

    @property
    def closing(self) -> Closing:
        """Of a `close`: who closes the site."""
        return cast(Closing, self.detail[0])

    @property
    def task(self) -> str | None:
        """Of a `head`: its output's name, if it has one."""
        return cast("str | None", self.detail[1])

    @property
    def rows(self) -> tuple[Selector, ...]:
        """Of a `head`: which of its branch's rows are its own."""
        return cast("tuple[Selector, ...]", self.detail[2])


KINDS: dict[str, str] = {
    "embed": "what comes before a stack's layers; input: none, or the encoder's last states; detail: () or (stack,)",
    "fork": "a branch's own copy of a state; detail: (branch,)",
    "norm": "the output of a LayerNorm, before any adapter; input: a state",
    "linear": "what a linear map, or an attention's core, has before any adapter; inputs: a state, adapted LayerNorm",
    "part": "the backbone from a state to a sub-layer's output; inputs: the state, adapted LayerNorm and maps",
    "layer": "a layer's output, as a value; input: the state after its last sub-layer",
    "embedded": "the embeddings' output as a value; input: that state",
    "states": "the states of all layers, the last one as the value; input: the last state",
    "adapter": "an adapter's result; inputs: a value, perhaps its increment; detail: (tokens that it adds,) or ()",
    "increment": "an adapter's increment; input: a value; detail: (whose options prepare its input,)",
    "fuse": "attention over increments; inputs: the value, candidates; detail: (last, slots)",
    "mixture": "as fuse, but only the mixture, without what it is added to",
    "average": "weighted sum of results; inputs: the value, children; detail: (weights,)",
    "sum": "weighted sum of increments; inputs: the increments; detail: (weights,)",
    "split": "the rows or tokens of a value that a selector takes; detail: (selector,)",
    "join": "pieces put back into a value; inputs: the value, pieces; detail: their selectors",
    "dropped": "nothing: what would act here was dropped; input: a value",
    "close": "a value closed into a state; detail: (who closes,)",
    "head": "a task's output; input: the last states; detail: (branch, task, selectors)",
}

ACTING = frozenset({"adapter", "increment"})
PLAIN = frozenset({"norm", "linear"})
"""Values inside a sub-layer on which nothing has acted."""
STARTS = PLAIN | {"part", "embedded", "layer", "states"}
"""The values that sites start from."""


class Graph:
    """A directed acyclic graph of operations.

    Nodes are numbered in an order in which every node follows its inputs. A graph is built once and
    not changed afterwards; passes return new graphs, or the same one where there is nothing to change.

    Args:
        expression: what the graph was built from, for messages.

    Attributes:
        operations: the operation of each node.
        sources: the inputs of each node, in order; one may appear twice.
        states: the last state of each branch, by the branch's number.
        outputs: the head nodes, in the order of the outputs.
    """

    def __init__(self, expression: Expression) -> None:
        self.expression = expression
        self.operations: list[Operation] = []
        self.sources: list[tuple[int, ...]] = []
        self.states: dict[int, int] = {}
        self.outputs: list[int] = []

    def add(self, operation: Operation, inputs: Sequence[int] = ()) -> int:
        """A new node; returns its number."""
        self.operations.append(operation)
        self.sources.append(tuple(inputs))
        return len(self.sources) - 1

    def __len__(self) -> int:
        return len(self.operations)

    def __iter__(self) -> Iterator[int]:
        """Node numbers, every node after its inputs."""
        return iter(range(len(self)))

    def nodes(self) -> Iterator[tuple[int, Operation, tuple[int, ...]]]:
        """Each node's number, operation and inputs, every node after its inputs."""
        return zip(range(len(self)), self.operations, self.sources, strict=True)

    def operation(self, node: int) -> Operation:
        """The operation of a node."""
        return self.operations[node]

    def inputs(self, node: int) -> tuple[int, ...]:
        """The inputs of a node, in order; one may appear twice."""
        return self.sources[node]

    def consumers(self, node: int) -> list[int]:
        """The nodes that read a node."""
        return self._consumers[node]

    @cached_property
    def _consumers(self) -> list[list[int]]:
        consumers: list[list[int]] = [[] for _ in self]
        for node, inputs in enumerate(self.sources):
            for source in dict.fromkeys(inputs):
                consumers[source].append(node)
        return consumers

    def needed(self, roots: Sequence[int]) -> set[int]:
        """The nodes from which any of `roots` can be reached, these included."""
        found = set(roots)
        for node in range(max(found, default=-1), -1, -1):
            if node in found:
                found.update(self.sources[node])
        return found

    def with_operations(self, changed: Mapping[int, Operation]) -> Graph:
        """The same graph with other operations at some nodes."""
        graph = Graph(self.expression)
        graph.operations = [changed.get(node, operation) for node, operation in enumerate(self.operations)]
        graph.sources, graph.states, graph.outputs = self.sources, dict(self.states), list(self.outputs)
        return graph

    def network(self) -> nx.DiGraph:
        """The graph for networkx's algorithms: nodes with their `operation`, edges from input to reader.

        Made when asked for, since a pass over its dictionaries of dictionaries takes ten times as long.
        """
        network = nx.DiGraph()
        network.add_nodes_from((node, {"operation": operation}) for node, operation in enumerate(self.operations))
        network.add_edges_from((source, node) for node, inputs in enumerate(self.sources) for source in inputs)
        return network

    def is_acyclic(self) -> bool:
        """Whether no node depends on itself."""
        return bool(nx.is_directed_acyclic_graph(self.network()))


class Rewriter:
    """Builds a changed copy of a graph, node by node.

    With `intern`, nodes of equal operation, inputs and scope become one.
    """

    def __init__(self, graph: Graph) -> None:
        self.old = graph
        self.new = Graph(graph.expression)
        self.at: dict[int, int] = {}
        self._interned: dict[tuple[object, ...], int] = {}

    def copy(self, node: int, operation: Operation | None = None, inputs: Sequence[int] | None = None) -> int:
        """Copies a node, with another operation or other inputs (of the old graph) if given."""
        sources = self.old.sources[node] if inputs is None else inputs
        new = self.new.add(operation or self.old.operations[node], [self.at[source] for source in sources])
        self.at[node] = new
        return new

    def intern(self, node: int, scope: object = None, operation: Operation | None = None) -> int:
        """Copies a node unless its equal within `scope` is there already."""
        operation = operation or self.old.operations[node]
        inputs = tuple([self.at[source] for source in self.old.sources[node]])
        key = (operation, inputs, scope)
        new = self._interned.get(key)
        if new is None:
            new = self._interned[key] = self.new.add(operation, inputs)
        self.at[node] = new
        return new

    def forward(self, node: int) -> None:
        """Leaves a node out: its first input takes its place."""
        self.at[node] = self.at[self.old.inputs(node)[0]]

    def finish(self) -> Graph:
        """The new graph, with the old one's states and outputs."""
        states = self.old.states.items()
        self.new.states = {branch: self.at[node] for branch, node in states if node in self.at}
        self.new.outputs = [self.at[node] for node in self.old.outputs if node in self.at]
        return self.new
