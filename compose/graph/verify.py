"""What always holds of a graph; tests ask after every pass. A violation is a fault of the compiler."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

from compose.graph.graph import ACTING, KINDS, STARTS, Graph, Operation
from compose.graph.sites import Vocabulary
from compose.specs import EMBED, LAYER, LayerSpec, SubLayerSpec
from compose.specs import STATES as STATES_SITE

STATES = frozenset({"embed", "fork", "close"})
"""Kinds that give a state: what goes from one sub-layer to the next."""
VALUES = frozenset(
    {"norm", "linear", "part", "embedded", "layer", "states", "adapter", "fuse", "average", "split", "join", "dropped"}
)
"""Kinds that give a value at a site."""
INCREMENTS = frozenset({"increment", "mixture", "sum"})
"""Kinds that give an increment at a site."""
FUSIONS = frozenset({"fuse", "mixture"})
PLACES = {
    "part": ("sublayer",),
    "close": ("sublayer", "norm", "layer"),
    "linear": ("linear", "core"),
    "norm": ("norm",),
    "layer": ("layer",),
}
"""The kinds of sites at which some kinds of nodes can be."""
WORDS = {
    "sublayer": "a sub-layer",
    "norm": "a LayerNorm",
    "linear": "a linear map",
    "core": "an attention's core",
    "layer": "a layer's output",
}
FORMS = {
    "increment": {"", "low_rank"},
    "fuse": {"", "unfolded", "folded"},
    "mixture": {"", "unfolded", "folded"},
}


Check = Callable[[int, Operation], Iterator[str]]
"""Finds what is wrong with a node."""


class GraphError(AssertionError):
    """A graph that breaks its invariants; lists all that it breaks."""


def verify(graph: Graph, vocabulary: Vocabulary, passes: Collection[str] = ()) -> None:
    """Checks that a graph is well formed.

    Args:
        graph: the graph.
        vocabulary: what it was built over.
        passes: names of the passes that it has been through: they promise more.

    Raises:
        GraphError: listing every violation.
    """
    violations = list(_Verifier(graph, vocabulary).violations(frozenset(passes)))
    if violations:
        raise GraphError("\n".join(violations))


class _Verifier:
    def __init__(self, graph: Graph, vocabulary: Vocabulary) -> None:
        self.graph = graph
        self.vocabulary = vocabulary
        self.layers = vocabulary.backbone.layers

    def violations(self, passes: frozenset[str]) -> Iterator[str]:
        strange = [node for node in self.graph if any(not 0 <= x < node for x in self.graph.inputs(node))]
        if strange:
            yield f"the inputs of {strange} do not all come before them"
            return
        if not self.graph.is_acyclic():
            yield "the graph has a cycle"
            return
        shapes = [*self._each(self._shape)]
        yield from shapes
        if shapes:  # what follows would not find its way
            return
        yield from self._each(self._place)
        yield from self._each(self._form)
        yield from self._ends()
        yield from self._ways()
        yield from self._groups()
        yield from self._promises(passes)

    def _each(self, check: Check) -> Iterator[str]:
        for node in self.graph:
            operation = self.graph.operation(node)
            where = f"{operation.kind} {operation.name} at {operation.layer}.{operation.site}"
            for fault in check(node, operation):
                yield f"node {node} ({where}): {fault}"

    def _kinds(self, nodes: Collection[int]) -> list[str]:
        return [self.graph.operation(node).kind for node in nodes]

    # single nodes

    def _shape(self, node: int, operation: Operation) -> Iterator[str]:
        inputs = self.graph.inputs(node)
        if operation.kind not in KINDS:
            yield "there is no such kind"
            return
        count = _arity(operation)
        if operation.kind == "part":
            if not inputs:
                yield "it has no input"
        elif len(inputs) not in count:
            yield f"it has {len(inputs)} inputs, not {' or '.join(map(str, sorted(count)))}"
        else:
            yield from self._input_kinds(operation, self._kinds(inputs))

    def _input_kinds(self, operation: Operation, kinds: list[str]) -> Iterator[str]:
        legal: list[Collection[str]]
        if operation.kind in ("embed", "embedded", "fork", "norm", "linear", "part", "layer", "states", "head"):
            legal = [STATES, *[VALUES] * (len(kinds) - 1)]
        elif operation.kind in FUSIONS:
            legal = [VALUES, *[INCREMENTS] * (len(kinds) - 1)]
        elif operation.kind == "adapter":
            legal = [VALUES, {"increment"}]
        elif operation.kind == "sum":
            legal = [INCREMENTS] * len(kinds)
        elif operation.kind == "join":
            legal = [VALUES, *[VALUES | {"close"}] * (len(kinds) - 1)]
        else:
            legal = [VALUES] * len(kinds)
        for kind, allowed in zip(kinds, legal, strict=False):
            if kind not in allowed:
                yield f"it reads a {kind}"

    def _place(self, node: int, operation: Operation) -> Iterator[str]:
        if operation.kind in ("embed", "fork", "head"):
            return
        backbone, key = self.vocabulary.backbone, (operation.layer, operation.site)
        if key in (backbone.embed_key, backbone.states_key):
            yield from self._weights(operation)
            sources = (self.graph.operation(source) for source in self.graph.inputs(node))
            enters = operation.kind in ("embedded", "states")
            if not enters and any((other.layer, other.site) != key for other in sources):
                yield "it reads a value of another site"
            return
        if not 0 <= operation.layer < len(self.layers):
            yield "there is no such layer"
            return
        layer = self.layers[operation.layer]
        if operation.site not in layer.sites:
            yield "there is no such site"
            return
        kind = layer.sites[operation.site].kind
        if kind not in PLACES.get(operation.kind, (kind,)):
            yield f"it is not at {' or '.join(WORDS[place] for place in PLACES[operation.kind])}"
        yield from self._weights(operation)
        yield from self._neighbours(node, operation, layer)

    def _weights(self, operation: Operation) -> Iterator[str]:
        key = (operation.layer, operation.site)
        adapters = [operation.name] if operation.kind in ACTING else []
        if operation.kind == "increment" or operation.kind in FUSIONS:
            adapters.append(operation.prepared_by)
        for name in adapters:
            spec = self.vocabulary.adapters.get(name)
            if spec is None or key not in spec.by_site:
                yield f"the adapter '{name}' has no weights here"
        if operation.kind in FUSIONS:
            fusion = self.vocabulary.fusions.get(operation.name)
            if fusion is None or key not in fusion.sites:
                yield f"the fusion '{operation.name}' has no weights here"

    def _neighbours(self, node: int, operation: Operation, layer: LayerSpec) -> Iterator[str]:
        """Values come from the same site, but for those that a part or a linear map takes from inside."""
        if operation.kind == "layer":
            return
        inputs = self.graph.inputs(node)
        legal = {operation.site}
        if operation.kind in STARTS:
            inputs = inputs[1:]
            inside = next(sub.inner for sub in layer.sublayers if operation.site in _names(sub))
            legal = {site.name for site in inside if operation.kind == "part" or site.kind == "norm"}
            used = [self.graph.operation(source).site for source in inputs]
            if len(set(used)) < len(used):
                yield f"it takes a value twice: {used}"
        for source in inputs:
            other = self.graph.operation(source)
            if other.layer != operation.layer or other.site not in legal:
                yield f"it reads a {other.kind} at {other.layer}.{other.site}"

    def _form(self, node: int, operation: Operation) -> Iterator[str]:
        if operation.form not in FORMS.get(operation.kind, {""}):
            yield f"it has no form '{operation.form}'"
        readers = set(self._kinds(self.graph.consumers(node)))
        others = readers - FUSIONS - {"adapter"}  # an adapter multiplies out the factors that a fusion reads
        if operation.form == "low_rank" and (others or not readers & FUSIONS):
            yield f"its factors are read by {sorted(others) or 'no fusion'}"
        if operation.kind in FUSIONS and not operation.form:
            factored = [self.graph.operation(source).form for source in self.graph.inputs(node)[1:]]
            if "low_rank" in factored:
                yield "its plain form reads factors"

    # the whole

    def _ends(self) -> Iterator[str]:
        states = self.graph.states
        for branch, node in states.items():
            if not 0 <= node < len(self.graph) or self.graph.operation(node).kind not in STATES:
                yield f"branch {branch} does not end in a state"
        heads = [node for node in self.graph if self.graph.operation(node).kind == "head"]
        if sorted(self.graph.outputs) != heads:
            yield f"the outputs are {self.graph.outputs}, the heads {heads}"
        for node in heads:
            read = self.graph.operation(node).branch
            if states.get(read) != self.graph.inputs(node)[0]:
                yield f"head {node} does not read the states of branch {read}"

    def _ways(self) -> Iterator[str]:
        """From each branch's end back to the start: every sub-layer once, in order."""
        wanted = [(layer.index, sub.name) for layer in self.layers for sub in layer.sublayers]
        stacks = [
            layer.index
            for before, layer in zip(self.layers, self.layers[1:], strict=False)
            if before.stack != layer.stack
        ]
        for branch, node in self.graph.states.items():
            passed: list[tuple[int, str]] = []
            embeds: list[int] = []
            while True:
                operation = self.graph.operation(node)
                if operation.site in (EMBED, LAYER, STATES_SITE):
                    pass
                elif operation.kind == "close" and (operation.layer, operation.site) in wanted:
                    passed.append((operation.layer, operation.site))
                elif operation.kind == "embed":
                    embeds.append(operation.layer)
                if not self.graph.inputs(node):
                    break
                node = self.graph.inputs(node)[0]
            if passed[::-1] != wanted:
                yield f"branch {branch} runs through {passed[::-1]}, not {wanted}"
            if embeds[::-1] != [-1, *stacks]:
                yield f"branch {branch} enters stacks at {embeds[::-1]}"

    def _groups(self) -> Iterator[str]:
        groups: dict[int, list[int]] = {}
        for node in self.graph:
            if self.graph.operation(node).group >= 0:
                groups.setdefault(self.graph.operation(node).group, []).append(node)
        for number, nodes in groups.items():
            members = [self.graph.operation(node) for node in nodes]
            if len(members) < 2 or {member.kind for member in members} not in ({"adapter"}, {"increment"}):
                yield f"group {number} is no group of adapters: {self._kinds(nodes)}"
                continue
            if members[0].kind == "increment" and len({self.graph.inputs(node) for node in nodes}) > 1:
                yield f"increments of group {number} read several values"
            adapters = self.vocabulary.adapters
            parts = [adapters[member.name].by_site[member.layer, member.site] for member in members]
            if len({(part.layer, part.site, part.shape) for part in parts}) > 1:
                yield f"group {number} has members of several sites or shapes"
            if any(self.graph.needed([node]) & set(nodes) != {node} for node in nodes):
                yield f"members of group {number} read each other"

    def _promises(self, passes: frozenset[str]) -> Iterator[str]:
        kinds = set(self._kinds(range(len(self.graph))))
        if "drop" in passes and "dropped" in kinds:
            yield "something dropped is still there"
        if "prune" in passes:
            needed = self.graph.needed([*self.graph.states.values(), *self.graph.outputs])
            for node in sorted(set(self.graph) - needed):
                yield f"nothing needs node {node} ({self.graph.operation(node).kind})"
        if "fold" in passes:
            for node in self.graph:
                if self.graph.operation(node).kind in FUSIONS and not self.graph.operation(node).form:
                    yield f"node {node} is a fusion in its plain form"
        if "fork" in passes and len(set(self.graph.states.values())) > 1 and "fork" in kinds:
            yield "branches are copied before they part"
        if "share" in passes:
            yield from self._repeated("fork" in passes)

    def _repeated(self, forked: bool) -> Iterator[str]:
        """Branches that compute the same must be one; without a fork pass, other nodes too."""
        known: dict[tuple[object, ...], int] = {}
        numbers: list[int] = []
        for node in self.graph:
            operation, inputs = self.graph.operation(node), self.graph.inputs(node)
            if operation.kind == "fork":
                numbers.append(numbers[inputs[0]])
                continue
            key = (operation.kind, operation.layer, operation.site, operation.name, operation.detail)
            numbers.append(known.setdefault((*key, tuple(numbers[source] for source in inputs)), node))
        ends: dict[int, int] = {}
        for branch, node in self.graph.states.items():
            if ends.setdefault(numbers[node], node) != node:
                yield f"branch {branch} never parts from another, but is computed apart"
        if not forked:
            equal: dict[tuple[object, ...], int] = {}
            for node in self.graph:
                own = (self.graph.operation(node), self.graph.inputs(node))
                if equal.setdefault(own, node) != node:
                    yield f"node {node} repeats node {equal[own]}"


def _names(sublayer: SubLayerSpec) -> set[str]:
    return {site.name for site in (*sublayer.inner, *sublayer.exits)}


def _arity(operation: Operation) -> set[int]:
    """The legal numbers of inputs; those of a part depend on what acts on its linear maps."""
    if operation.kind == "embed":
        return {0} if operation.layer < 0 else {1}
    if operation.kind in FUSIONS:
        return {1 + sum(operation.slots)}
    if operation.kind in ("adapter", "linear"):
        return {1, 2}
    if operation.kind == "average":
        return {1 + len(operation.weights)}
    if operation.kind == "sum":
        return {len(operation.weights)}
    if operation.kind == "join":
        return {1 + len(operation.selectors)}
    return {1}
