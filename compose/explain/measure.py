"""Walks a plan and adds up what it costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import groupby

from compose.compile import Options, compile_plan
from compose.dsl import Branch, Expression, Route, branches, to_text, walk
from compose.errors import InputError
from compose.explain.acts import Acts
from compose.explain.core import core_cost
from compose.explain.explanation import BYTES, Explanation, HeadRows, LayerRange, Price
from compose.explain.forks import forks_of
from compose.graph.cost import (
    Cost,
    Extent,
    after_layers,
    before_layers,
    head_cost,
    operation_cost,
    piece,
    sublayer_cost,
)
from compose.graph.graph import Operation
from compose.graph.sites import Vocabulary
from compose.plan import Output, Plan, SiteProgram
from compose.specs import LAYER, BackboneSpec, HeadSpec, LayerSpec, SiteSpec


@dataclass(frozen=True)
class _Batch:
    rows: int
    tokens: int
    decoder_tokens: int | None
    tasks: int

    def tokens_of(self, layer: LayerSpec, site: SiteSpec | None = None) -> int:
        """Tokens that a layer, or one of its sites, runs on."""
        reads_encoder = layer.stack == "encoder" or (site is not None and site.memory)
        return self.tokens if reads_encoder or self.decoder_tokens is None else self.decoder_tokens


@dataclass(frozen=True)
class _Layer:
    """One layer's cost, and what tells it from others."""

    index: int
    stack: str
    classes: int
    classes_after: int
    sites: tuple[tuple[str, tuple[str, ...]], ...]
    cost: Cost
    forks_before: bool

    @property
    def kind(self) -> tuple[object, ...]:
        return (self.stack, self.classes, self.classes_after, self.sites, self.cost)


def explain(
    plan: Plan,
    vocabulary: Vocabulary,
    heads: Mapping[str, HeadSpec],
    rows: int,
    tokens: int,
    decoder_tokens: int | None = None,
) -> Explanation:
    """What a plan runs where on which rows, and what it costs.

    Args:
        plan: the plan.
        vocabulary: what it was compiled over.
        heads: the heads that there are, by name.
        rows: of the batch.
        tokens: of a row; of an image what the backbone makes of it.
        decoder_tokens: of a row in the decoder of an encoder-decoder; by default `tokens`.

    Raises:
        InputError: if there are no rows or tokens, or the sizes of a split do not fit them.
    """
    batch = _batch(plan, rows, tokens, decoder_tokens)
    parted = branches(plan.expression)
    names = _names(parted)
    layers = _layers(plan, vocabulary, batch)
    head_rows = tuple(_head(output, heads, batch, plan.backbone) for output in plan.outputs)
    answers = Cost(sum(cost.multiplies for _, cost in head_rows), sum(cost.weights for _, cost in head_rows))

    @cache
    def alone(expression: Expression) -> Cost:
        own = compile_plan(expression, vocabulary, Options(plan.training))
        return _total(own, _layers(own, vocabulary, batch), batch)

    wanted = [parted[branch].expression for branch in dict.fromkeys(output.branch for output in plan.outputs)]
    separate = sum((alone(expression) for expression in wanted), answers)
    return Explanation(
        expression=plan.expression,
        architecture=plan.backbone.architecture,
        rows=batch.rows,
        tokens=batch.tokens,
        decoder_tokens=batch.decoder_tokens,
        branches=names,
        ranges=_ranges(layers, batch),
        forks=forks_of(plan),
        heads=tuple(head for head, _ in head_rows),
        cost=_price(_total(plan, layers, batch) + answers),
        separate=_price(separate, len(wanted)),
        plain=_price(alone(None)),
        notes=_notes(plan, names, batch),
        graph=plan.graph,
    )


def _batch(plan: Plan, rows: int, tokens: int, decoder_tokens: int | None) -> _Batch:
    given = {"rows": rows, "tokens": tokens, "decoder_tokens": decoder_tokens}
    for name, value in given.items():
        if value is not None and value < 1:
            raise InputError(f"{name}={value} is nothing to explain", hint=f"{name}=8")
    if plan.backbone.encoder_decoder:
        decoder_tokens = tokens if decoder_tokens is None else decoder_tokens
    else:
        decoder_tokens = None
    routed = {task for _, node in walk(plan.expression) if isinstance(node, Route) for task in node.tasks}
    return _Batch(rows, plan.backbone.tokens or tokens, decoder_tokens, len(routed))


def _names(parted: tuple[Branch, ...]) -> tuple[str, ...]:
    return tuple(branch.task or to_text(branch.expression) for branch in parted)


def _layers(plan: Plan, vocabulary: Vocabulary, batch: _Batch) -> list[_Layer]:
    found = []
    if plan.embedding is not None:
        found.append(_outside(plan.embedding, 1, len(plan.embedding.results), vocabulary, batch))
        batch = replace(batch, tokens=batch.tokens + plan.added_tokens[1])
    for layer, rows in zip(plan.backbone.layers, plan.layers, strict=True):
        classes, cost = rows.classes, Cost()
        sites: list[tuple[str, tuple[str, ...]]] = []
        for sublayer in layer.sublayers:
            cost += sublayer_cost(sublayer, classes * batch.rows, batch.tokens_of(layer), batch.tokens)
            for site in (*sublayer.inner, *sublayer.exits):
                program = plan.programs.get((layer.index, site.name))
                if program is not None:
                    cost += _site_cost(program, vocabulary, batch, batch.tokens_of(layer, site))
                    if site.kind == "core":
                        cost += core_cost(program, sublayer, batch.rows, batch.tokens_of(layer, site), vocabulary)
                    sites.append((site.name, Acts(program).texts()))
                    classes = len(program.results)
        output = plan.programs.get((layer.index, LAYER))
        if output is not None:
            cost += _site_cost(output, vocabulary, batch, batch.tokens_of(layer))
            sites.append((LAYER, Acts(output).texts()))
            classes = len(output.results)
        forks_before = rows.gather is not None
        found.append(_Layer(layer.index, layer.stack, rows.classes, classes, tuple(sites), cost, forks_before))
    if plan.aggregation is not None:
        found.append(_outside(plan.aggregation, plan.classes, plan.ends, vocabulary, batch))
    return found


def _outside(program: SiteProgram, classes: int, classes_after: int, vocabulary: Vocabulary, batch: _Batch) -> _Layer:
    """What acts before or after the layers."""
    cost = _site_cost(program, vocabulary, batch, batch.tokens)
    acts = ((program.site, Acts(program).texts()),)
    return _Layer(program.layer, program.site, classes, classes_after, acts, cost, False)


def _site_cost(program: SiteProgram, vocabulary: Vocabulary, batch: _Batch, tokens: int) -> Cost:
    cost = Cost()
    extents = {register: Extent(float(batch.rows), tokens) for register in range(program.classes)}
    made: dict[int, Operation] = {}
    for step in program.steps:
        for operation, inputs, output in zip(step.operations, step.inputs, step.outputs, strict=True):
            extent = extents[inputs[0]]
            cost += operation_cost(operation, [made.get(register) for register in inputs], extent, vocabulary)
            if operation.kind == "split":
                extent = piece(operation.selectors[0], extent, batch.tasks)
            if operation.changes_tokens:
                extent = extent._replace(tokens=extent.tokens + operation.added_tokens)
            elif operation.kind in ("join", "average"):
                extent = extent._replace(tokens=max(extents[register].tokens for register in inputs))
            extents[output], made[output] = extent, operation
    return cost


def _total(plan: Plan, layers: list[_Layer], batch: _Batch) -> Cost:
    """Of everything but heads."""
    start = before_layers(plan.backbone, batch.rows) + after_layers(plan.backbone, plan.classes * batch.rows)
    return sum((layer.cost for layer in layers), start)


def _price(cost: Cost, passes: int = 1) -> Price:
    return Price(2 * round(cost.multiplies), BYTES * cost.weights, passes)


def _ranges(layers: list[_Layer], batch: _Batch) -> tuple[LayerRange, ...]:
    started = 0

    def number(layer: _Layer) -> tuple[object, ...]:
        nonlocal started
        started += layer.forks_before
        return (started, layer.kind)

    found = []
    for _, group in groupby(layers, number):
        alike = list(group)
        layer = alike[0]
        price = _price(Cost(layer.cost.multiplies * len(alike), layer.cost.weights * len(alike)))
        found.append(
            LayerRange(
                first=layer.index,
                last=alike[-1].index,
                stack=layer.stack,
                classes=layer.classes,
                classes_after=layer.classes_after,
                rows=layer.classes * batch.rows,
                rows_after=layer.classes_after * batch.rows,
                sites=layer.sites,
                flops=price.flops,
                bytes=price.bytes,
            )
        )
    return tuple(found)


def _head(
    output: Output, heads: Mapping[str, HeadSpec], batch: _Batch, backbone: BackboneSpec
) -> tuple[HeadRows, Cost]:
    extent = Extent(float(batch.rows), batch.tokens_of(backbone.layers[-1]))
    for selector in output.rows:
        extent = piece(selector, extent, batch.tasks)
    head = heads.get(output.head) if output.head is not None else None
    cost = Cost() if head is None else head_cost(head, extent.rows, extent.tokens)
    kind = None if head is None else head.kind
    return HeadRows(output.task, kind, output.branch, extent.rows, _price(cost).flops), cost


def _notes(plan: Plan, names: tuple[str, ...], batch: _Batch) -> tuple[str, ...]:
    found = []
    if batch.tasks:
        found.append(f"the rows are taken to be routed to the {batch.tasks} tasks in equal numbers")
    if plan.added_tokens[1]:
        found.append(f"prompts make rows up to {plan.added_tokens[1]} tokens longer in the layers")
    merged: dict[int, list[str]] = {}
    for name, branch in zip(names, plan.branches, strict=True):
        if branch is not None:
            merged.setdefault(branch, []).append(name)
    found += [f"{', '.join(alike)} never part: one branch" for alike in merged.values() if len(alike) > 1]
    left_out = [name for name, branch in zip(names, plan.branches, strict=True) if branch is None]
    if left_out:
        found.append(f"left out, since nobody asked for it: {', '.join(left_out)}")
    return tuple(found)
