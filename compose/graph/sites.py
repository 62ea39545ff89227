"""What an expression does at one site: its nodes, who closes the site, and its increment for fusion."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from compose.dsl import (
    Average,
    BatchSplit,
    Block,
    Drop,
    Expression,
    Fuse,
    Route,
    Split,
    Stack,
    own_name,
)
from compose.errors import CompileError, Problem
from compose.graph.graph import Graph, Operation
from compose.graph.pieces import Apart, Cut, Selector, closing_of, closing_within, pieces
from compose.graph.where import marked
from compose.specs import ActingSpec, AdapterSpec, BackboneSpec, Closing, FusionSpec


@dataclass(frozen=True)
class Vocabulary:
    """What names in an expression stand for."""

    backbone: BackboneSpec
    adapters: Mapping[str, AdapterSpec]
    fusions: Mapping[str, FusionSpec]


class Result(NamedTuple):
    """The value after an expression, who closes the site, and whether anything acted."""

    node: int
    closing: Closing | Apart
    acts: bool


ZERO: Final = -1
"""The increment of None and of what is dropped: a candidate that adds nothing."""
ABSENT: Final = -2
"""The increment of an adapter without weights at the site: no candidate."""


def dropped_layers(drop: Drop, count: int) -> frozenset[int]:
    """The layers on which a Drop leaves out what it wraps.

    Random drops are drawn before compilation; here they are 0.
    """
    if drop.layers is not None:
        return frozenset(drop.layers)
    if drop.last is not None:
        return frozenset(range(count - drop.last, count))
    return frozenset(range(drop.first)) if isinstance(drop.first, int) else frozenset()


def is_dropped(drop: Drop, key: tuple[int, str], backbone: BackboneSpec) -> bool:
    """Whether a Drop leaves out what it wraps at a (layer, site); what is no layer's goes with all layers."""
    gone = dropped_layers(drop, len(backbone.layers))
    outside = key in (backbone.embed_key, backbone.states_key)
    return len(gone) == len(backbone.layers) if outside else key[0] in gone


def weighed(average: Average) -> list[tuple[Expression, float]]:
    """The children of an Average that count anything, each with its weight."""
    return [(child, weight) for child, weight in zip(average.children, average.factors, strict=True) if weight]


class SiteBuilder:
    """Adds the nodes of expressions at one site to a graph."""

    def __init__(self, graph: Graph, vocabulary: Vocabulary, layer: int, site: str) -> None:
        self.graph = graph
        self.vocabulary = vocabulary
        self.key = (layer, site)

    def act(self, expression: Expression, node: int, before: Closing | Apart = "backbone") -> Result:
        """Adds what turns a value into the expression's result.

        Args:
            expression: what acts.
            node: the value.
            before: who closes it, if nothing else acts.
        """
        if isinstance(expression, Block):
            return _ACTS[type(expression)](self, expression, node, before)
        part = self._part(expression)
        if part is None:
            return Result(node, before, False)
        detail = (part.added_tokens,) if part.added_tokens or part.moves_text else ()
        return Result(self._add("adapter", [node], name=str(expression), detail=detail), part.closing, True)

    def closed(self, result: Result) -> Result:
        """The result with pieces that differ in who closes them closed, each by its own."""
        if not isinstance(result.closing, Apart):
            return result
        inputs, selectors = [result.node], []
        for selector, closing in result.closing.pieces:
            piece = Result(self._add("split", [result.node], detail=(selector,)), closing, True)
            node, last, _ = self.closed(piece)
            inputs.append(self._add("close", [node], detail=(last,)))
            selectors.append(selector)
        return Result(self._add("join", inputs, detail=tuple(selectors)), "adapter", True)

    def increment(self, expression: Expression, node: int, shared: str) -> int:
        """Adds the expression's increment at the value `node`; a node, `ZERO` or `ABSENT`.

        Args:
            shared: the adapter whose options prepare the input of a bare child.
        """
        if isinstance(expression, Block):
            return _INCREMENTS[type(expression)](self, expression, node, shared)
        if expression is None:
            return ZERO
        if self._part(expression) is None:
            return ABSENT
        return self._add("increment", [node], name=expression, detail=(shared,))

    def acting(self, expression: Expression) -> list[str]:
        """The names of the adapters that act here, in order."""
        if isinstance(expression, Drop) and self._is_dropped(expression):
            return []
        if isinstance(expression, Average):
            return [name for child, _ in weighed(expression) for name in self.acting(child)]
        if isinstance(expression, Block):
            return [name for child in expression.children for name in self.acting(child)]
        return [] if expression is None or self._part(expression) is None else [expression]

    def has_weights(self, expression: Expression) -> bool:
        """Whether any adapter of the expression has weights here, dropped or not."""
        if isinstance(expression, Block):
            return any(self.has_weights(child) for child in expression.children)
        return self._part(expression) is not None

    def closing(self, expression: Expression, before: Closing | Apart = "backbone") -> Closing | Apart:
        """Who closes the site after the expression; pieces that differ are closed one by one.

        Args:
            expression: what acts.
            before: who closes the value that it acts on, if nothing else acts.
        """
        if not self.acting(expression):
            return before
        if isinstance(expression, Stack | Drop):
            for child in expression.children:
                before = self.closing(child, before)
            return before
        if isinstance(expression, Cut):
            within = [self._within(before, selector, expression) for selector, _ in pieces(expression)]
            own = [self.closing(child, closing) for child, closing in zip(expression.children, within, strict=True)]
            return closing_of(expression, own)
        if isinstance(expression, Block):
            closings = {self.closing(child) for child in expression.children if self.acting(child)}
            return closings.pop() if len(closings) == 1 else "adapter"
        part = self._part(expression)
        return part.closing if part else before

    # results

    def _stack(self, stack: Stack, node: int, before: Closing | Apart, count: int | None = None) -> Result:
        """The result of a Stack, or of its first `count` children."""
        result = Result(node, before, False)
        for child in stack.children[:count]:
            after = self.act(child, result.node, result.closing)
            result = after._replace(acts=result.acts or after.acts)
        return result

    def _drop(self, drop: Drop, node: int, before: Closing | Apart) -> Result:
        if not self._is_dropped(drop):
            return self.act(drop.children[0], node, before)
        if self.has_weights(drop):
            node = self._add("dropped", [node])
        return Result(node, before, False)

    def _fuse(self, fuse: Fuse, node: int, before: Closing | Apart) -> Result:
        acting = self.acting(fuse)
        if not acting:
            return Result(node, before, False)
        self._require_one_closing(fuse, [child for child in fuse.children if self.acting(child)])
        inputs, detail = self._candidates(fuse, node, acting[-1])
        fused = self._add("fuse", inputs, name=own_name(fuse) or "", detail=detail)
        return Result(fused, self.closing(fuse), True)

    def _average(self, average: Average, node: int, before: Closing | Apart) -> Result:
        if not self.acting(average):
            return Result(node, before, False)
        children, factors = zip(*weighed(average), strict=True)
        self._require_one_closing(average, children)
        results = [self.act(child, node) for child in children]
        inputs = [node, *(result.node for result in results)]
        return Result(self._add("average", inputs, detail=(factors,)), self.closing(average), True)

    def _cut(self, block: Cut, node: int, before: Closing | Apart) -> Result:
        if not self.acting(block):
            return Result(node, before, False)
        inputs, selectors, closings = [node], [], []
        for selector, child in pieces(block):
            closing = self._within(before, selector, block)
            if self.acting(child):
                piece, closing, _ = self.act(child, self._add("split", [node], detail=(selector,)), closing)
                inputs.append(piece)
                selectors.append(selector)
            closings.append(closing)
        return Result(self._add("join", inputs, detail=tuple(selectors)), closing_of(block, closings), True)

    def _within(self, closing: Closing | Apart, selector: Selector, block: Cut) -> Closing | Apart:
        """Who closes a piece of a value that `block` cuts up."""
        found = closing_within(closing, selector)
        if found is None:
            raise CompileError(
                Problem(
                    f"the pieces before this {type(block).__name__} close layer {self.key[0]}, site '{self.key[1]}' "
                    "differently, and are not its own",
                    **marked(self.graph.expression, block),
                    why="who closes a piece of its own would not be the same for all of it",
                    hint="blocks of the same sizes or tasks, or adapters that agree in original_ln_after",
                )
            )
        return found

    # increments

    def _stack_increment(self, stack: Stack, node: int, shared: str) -> int:
        acting = [index for index, child in enumerate(stack.children) if self.acting(child)]
        if not acting:
            return ZERO if self._is_candidate(stack) else ABSENT
        last = stack.children[acting[-1]]
        before = self._stack(stack, node, "backbone", acting[-1]) if acting[-1] else None
        if before is None or not before.acts:
            return self.increment(last, node, shared)
        return self.increment(last, before.node, self.acting(last)[-1])

    def _drop_increment(self, drop: Drop, node: int, shared: str) -> int:
        if self._is_dropped(drop):
            return ZERO if self._is_candidate(drop.children[0]) else ABSENT
        return self.increment(drop.children[0], node, shared)

    def _average_increment(self, average: Average, node: int, shared: str) -> int:
        if not self.acting(average):
            return ZERO if self._is_candidate(average) else ABSENT
        parts = [(self.increment(child, node, shared), weight) for child, weight in weighed(average)]
        weighted = [(part, weight) for part, weight in parts if part >= 0]
        return self._add("sum", [part for part, _ in weighted], detail=(tuple(w for _, w in weighted),))

    def _mixture(self, fuse: Fuse, node: int, shared: str) -> int:
        acting = self.acting(fuse)
        if not acting:
            return ZERO if self._is_candidate(fuse) else ABSENT
        inputs, detail = self._candidates(fuse, node, acting[-1])
        return self._add("mixture", inputs, name=own_name(fuse) or "", detail=detail)

    def _candidates(self, fuse: Fuse, node: int, last: str) -> tuple[list[int], tuple[object, ...]]:
        found = [self.increment(child, node, last) for child in fuse.children]
        if self.vocabulary.fusions[own_name(fuse) or ""].by_place:
            # Each child has scales of its own, and its place among them: one without weights here counts nothing.
            found = [ZERO if candidate == ABSENT else candidate for candidate in found]
        present = [candidate for candidate in found if candidate != ABSENT]
        slots = tuple(candidate != ZERO for candidate in present)
        return [node, *(candidate for candidate in present if candidate >= 0)], (last, slots)

    def _is_candidate(self, expression: Expression) -> bool:
        """Whether an expression in which nothing acts is still a candidate: None, or dropped."""
        if isinstance(expression, Block):
            return any(self._is_candidate(child) for child in expression.children)
        return expression is None or self._part(expression) is not None

    # helpers

    def _part(self, name: Expression) -> ActingSpec | None:
        return self.vocabulary.adapters[name].by_site.get(self.key) if isinstance(name, str) else None

    def _is_dropped(self, drop: Drop) -> bool:
        return is_dropped(drop, self.key, self.vocabulary.backbone)

    def _require_one_closing(self, block: Fuse | Average, children: Iterable[Expression]) -> None:
        closings = {self.closing(child): child for child in children}
        if len(closings) > 1:
            kind = type(block).__name__
            raise CompileError(
                Problem(
                    f"the children of this {kind} close layer {self.key[0]}, site '{self.key[1]}' differently",
                    **marked(self.graph.expression, block),
                    why="some leave the residual addition and LayerNorm to the backbone, "
                    "others (original_ln_after=False) do it themselves",
                    hint=f"{kind} adapters that agree in original_ln_after, or put them into Parallel",
                )
            )

    def _add(self, kind: str, inputs: list[int], name: str = "", detail: tuple[object, ...] = ()) -> int:
        layer, site = self.key
        return self.graph.add(Operation(kind, layer, site, name, detail), inputs)


_ACTS: dict[type, Callable[..., Result]] = {
    Stack: SiteBuilder._stack,
    Drop: SiteBuilder._drop,
    Fuse: SiteBuilder._fuse,
    Average: SiteBuilder._average,
    Split: SiteBuilder._cut,
    BatchSplit: SiteBuilder._cut,
    Route: SiteBuilder._cut,
}
# Blocks that cut a value up stand in no Fuse any more; see `hoist`.
_INCREMENTS: dict[type, Callable[..., int]] = {
    Stack: SiteBuilder._stack_increment,
    Drop: SiteBuilder._drop_increment,
    Fuse: SiteBuilder._mixture,
    Average: SiteBuilder._average_increment,
}
