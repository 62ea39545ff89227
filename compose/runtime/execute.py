"""Runs a site's program: a value for each class comes in, a value for each class goes out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from compose.methods.part import Context, LowRank
from compose.methods.row_tokens import RowTokens
from compose.runtime.bind import BoundOperation, BoundProgram
from compose.runtime.frame import Frame
from compose.runtime.groups import GROUPS, pays
from compose.runtime.lengths import Value, averaged_context, differ, longer_average, longer_join
from compose.runtime.rows import places
from compose.runtime.site import SiteRun
from compose.specs import Closing


def run(frame: Frame, bound: BoundProgram, y: Tensor, context: Context) -> tuple[Tensor, ...] | Tensor:
    """Runs a program.

    Args:
        frame: the call.
        bound: the program.
        y: [classes x rows, tokens, width], the site's value.
        context: its context, with the same rows.

    Returns:
        One value [rows, tokens, width] for each class that goes out, or all of them in one tensor.
    """
    classes = bound.program.classes
    if y.dtype != bound.dtype:
        cast = y.to(bound.dtype)
        results = run(frame, bound, cast, _cast(context, bound.dtype, cast))
        if isinstance(results, Tensor):
            return results.to(y.dtype)
        return tuple(result.to(y.dtype) for result in results)
    values = [Value(y, context)] if classes == 1 else _unbind(y, context, classes)
    site = SiteRun(frame, dict(enumerate(values)))
    if classes > 1:
        site.wholes[tuple(range(classes))] = y
    _run_steps(site, bound, context)
    leaving = bound.program.results
    if leaving in site.wholes:
        return site.wholes[leaving]
    return tuple(site.registers[register].y for register in leaving)


def whole(results: tuple[Tensor, ...] | Tensor) -> Tensor:
    """The values of all classes in one tensor."""
    if isinstance(results, Tensor):
        return results
    return results[0] if len(results) == 1 else torch.cat(results)


def run_values(frame: Frame, bound: BoundProgram, values: Sequence[Value]) -> tuple[Value, ...]:
    """Runs a program on a value for each class that comes in; gives one for each that goes out."""
    site = SiteRun(frame, dict(enumerate(values)))
    _run_steps(site, bound, values[0].context)
    return tuple(site.registers[register] for register in bound.program.results)


def _run_steps(site: SiteRun, bound: BoundProgram, context: Context) -> None:
    for step in bound.steps:
        kind = step.operations[0].operation.kind
        if pays(site, step):
            GROUPS[kind](site, step, context)
        else:
            for output, operation in zip(step.outputs, step.operations, strict=True):
                site.registers[output] = HANDLERS[kind](site, operation)


def _unbind(y: Tensor, context: Context, classes: int) -> list[Value]:
    def parts(tensor: Tensor | None) -> Sequence[Tensor | None]:
        return [None] * classes if tensor is None else tensor.chunk(classes)

    pieces = y.chunk(classes)
    outputs: Sequence[Tensor | None] = pieces if context.output is not None else parts(None)
    tokens: Sequence[RowTokens | None] = [None] * classes
    if context.row_tokens is not None:
        tokens = context.row_tokens.parts(classes, len(pieces[0]))
    return [
        Value(piece, context._replace(residual=residual, input=given, output=output, row_tokens=own))
        for piece, residual, given, output, own in zip(
            pieces, parts(context.residual), parts(context.input), outputs, tokens, strict=True
        )
    ]


def _cast(context: Context, dtype: torch.dtype, y: Tensor) -> Context:
    """The context of a site in another type; y is the site's value in it, and so what its map gives."""
    norm = context.norm

    def cast_norm(states: Tensor, own: torch.dtype) -> Tensor:
        assert norm is not None
        return norm(states.to(own)).to(dtype)

    residual, given = context.residual, context.input
    return context._replace(
        residual=None if residual is None else residual.to(dtype),
        norm=None if norm is None or residual is None else (lambda states: cast_norm(states, residual.dtype)),
        input=None if given is None else given.to(dtype),
        output=None if context.output is None else y,
    )


def _adapter(site: SiteRun, bound: BoundOperation) -> Value:
    value: Value = site.registers[bound.inputs[0]]
    assert bound.part is not None
    if not bound.part.has_increment:
        return Value(bound.part(value.y, value.context), bound.part.context_after(value.context))
    prepared = site.prepare(bound.inputs[0], bound.part)
    if len(bound.inputs) == 1:
        return value._replace(y=bound.part.act(prepared))
    shared = site.registers[bound.inputs[1]]
    increment = shared.dense() if isinstance(shared, LowRank) else shared
    return value._replace(y=bound.part.finish(increment, prepared))


def _increment(site: SiteRun, bound: BoundOperation) -> Tensor | LowRank:
    assert bound.part is not None and bound.shared is not None
    given = site.prepare(bound.inputs[0], bound.shared)
    factors = bound.part.low_rank(given.input) if bound.operation.form == "low_rank" else None
    return bound.part.increment_at(given) if factors is None else factors


def _fused(site: SiteRun, bound: BoundOperation, residual: bool) -> Tensor:
    operation = bound.operation
    fusion = bound.fusion
    assert fusion is not None and bound.shared is not None
    prepared = site.prepare(bound.inputs[0], bound.shared)
    given = iter(bound.inputs[1:])
    candidates = [site.registers[next(given)] if filled else None for filled in operation.slots]
    query = prepared.query_before_norm if fusion.reads_before_norm else prepared.query
    assert bound.fold is not None
    forms: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {
        "": fusion.reference,
        "unfolded": fusion.mix,
        "folded": partial(fusion.mix_folded, folded=site.frame.folds.get(bound.fold)),
    }
    key = (operation.name, operation.layer, operation.site)
    temperature = site.frame.temperatures.setdefault(key, fusion.temperature)
    base = prepared.residual if residual else None
    mixed, weights = forms[operation.form](query, candidates, base, temperature=temperature)
    if site.frame.attention is not None:
        site.frame.attention.setdefault(key, []).append(weights)
    return mixed


def _fuse(site: SiteRun, bound: BoundOperation) -> Value:
    value: Value = site.registers[bound.inputs[0]]
    assert bound.shared is not None
    return value._replace(y=bound.shared.finish_fused(_fused(site, bound, residual=True), value.y))


def _mixture(site: SiteRun, bound: BoundOperation) -> Tensor:
    return _fused(site, bound, residual=False)


def _average(site: SiteRun, bound: BoundOperation) -> Value:
    value: Value = site.registers[bound.inputs[0]]
    weights = bound.operation.weights
    results: list[Value] = [site.registers[register] for register in bound.inputs[1:]]
    if results[0].y.shape != value.y.shape:
        return longer_average(results, weights)
    y = value.y
    for register, weight in zip(bound.inputs[1:], weights, strict=True):
        if register != bound.inputs[0]:
            y = y + weight * (site.registers[register].y - value.y)
    return Value(y, averaged_context(value, results))


def _sum(site: SiteRun, bound: BoundOperation) -> Tensor:
    weights = bound.operation.weights
    terms = [site.registers[register] * weight for register, weight in zip(bound.inputs, weights, strict=True)]
    return torch.stack(terms).sum(0) if len(terms) > 1 else terms[0]


def _split(site: SiteRun, bound: BoundOperation) -> Value:
    value: Value = site.registers[bound.inputs[0]]
    dimension, index = site.select(bound.chains[0], value.y)

    def take(tensor: Tensor) -> Tensor:
        return _take(tensor, dimension, index)

    y, context = take(value.y), value.context
    if context.output is value.y:  # nothing acted before: what is taken of one is taken of the other
        return Value(y, context._replace(output=None).each(take)._replace(output=y))
    return Value(y, context.each(take))


def _take(tensor: Tensor, dimension: int, index: slice | Tensor) -> Tensor:
    if isinstance(index, slice):
        return tensor.narrow(dimension, index.start, index.stop - index.start)
    return tensor.index_select(dimension, index)


def _put(site: SiteRun, bound: BoundOperation, into: Tensor) -> Tensor:
    """Pieces put into one copy of `into`."""
    dimensions, indices, pieces = set(), [], []
    for chain, register in zip(bound.chains, bound.inputs[1:], strict=True):
        piece: Value = site.registers[register]
        dimension, index = site.select(chain, into)
        dimensions.add(dimension)
        indices.append(places(index, into.device))
        pieces.append(piece.y.to(into.dtype))
    (dimension,) = dimensions  # of one block: all rows or all tokens
    return into.index_copy(dimension, torch.cat(indices), torch.cat(pieces, dimension))


def _join(site: SiteRun, bound: BoundOperation) -> Value:
    value: Value = site.registers[bound.inputs[0]]
    pieces: list[Value] = [site.registers[register] for register in bound.inputs[1:]]
    if differ(value, pieces):
        return longer_join(value, pieces, [site.select(chain, value.y)[1] for chain in bound.chains])
    return value._replace(y=_put(site, bound, value.y))


def _dropped(site: SiteRun, bound: BoundOperation) -> Value:
    value: Value = site.registers[bound.inputs[0]]
    return value


def close(value: Value, closing: Closing) -> Tensor:
    """The closed site: residual addition and LayerNorm, unless the adapter did that."""
    if closing == "adapter":
        return value.y
    residual = value.context.residual
    assert residual is not None, "only sub-layer sites are closed"
    total = value.y + residual
    return total if value.context.norm is None else value.context.norm(total)


def _close(site: SiteRun, bound: BoundOperation) -> Value:
    value: Value = site.registers[bound.inputs[0]]
    return value._replace(y=close(value, bound.operation.closing))


HANDLERS: dict[str, Callable[[SiteRun, BoundOperation], Any]] = {
    "adapter": _adapter,
    "increment": _increment,
    "fuse": _fuse,
    "mixture": _mixture,
    "average": _average,
    "sum": _sum,
    "split": _split,
    "join": _join,
    "dropped": _dropped,
    "close": _close,
}
