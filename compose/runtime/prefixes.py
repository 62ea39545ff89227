"""Runs a program at an attention's core: which virtual tokens each row has, and which of them it sees.

What flows there is no tensor of the layer's tokens but the prefix that has been put before them so far; an adapter
puts its own before that, as in AdapterHub: T5 tells distances apart. Rows whose prefixes differ in length are padded on
the left, so that each row's own lies next to its tokens, and the padding is masked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from compose.methods.part import Part
from compose.methods.prefix.module import PrefixPart
from compose.runtime.bind import BoundOperation, BoundProgram
from compose.runtime.frame import Frame
from compose.runtime.rows import places


class Prefix(NamedTuple):
    """The virtual tokens of some rows.

    Args:
        states: their keys and values, [2, rows, length, width]; one row where all have the same.
        visible: which of them are no padding, [rows, length]; None if all are.
    """

    states: Tensor
    visible: Tensor | None = None

    @property
    def length(self) -> int:
        """Number of virtual tokens, padding included."""
        return self.states.shape[2]

    def padded(self, length: int) -> Prefix:
        """With padding on the left."""
        more = length - self.length
        if not more:
            return self
        states = functional.pad(self.states, (0, 0, more, 0))
        visible = self.visible if self.visible is not None else _all_visible(self)
        return Prefix(states, functional.pad(visible, (more, 0), value=False))

    def expanded(self, rows: int) -> Prefix:
        """With as many rows as asked for."""
        visible = None if self.visible is None else self.visible.expand(rows, -1)
        return Prefix(self.states.expand(-1, rows, -1, -1), visible)

    def preceded_by(self, states: Tensor) -> Prefix:
        """With further virtual tokens, [2, rows, length, width], before each row's own."""
        if not self.length:
            return Prefix(states)
        rows, more = max(self.states.shape[1], states.shape[1]), states.shape[2]
        joined = torch.cat([states.expand(-1, rows, -1, -1), self.states.expand(-1, rows, -1, -1)], dim=2)
        if self.visible is None:
            return Prefix(joined)
        visible = functional.pad(self.visible.expand(rows, -1), (more, 0), value=True)
        # padding stays on the left: in a row with p such tokens, the p next to the further ones go before them
        padding = (~visible).sum(dim=1, keepdim=True)
        place = torch.arange(joined.shape[2], device=joined.device).expand(rows, -1)
        source = torch.where(place < padding, place + more, torch.where(place < padding + more, place - padding, place))
        return Prefix(joined.gather(2, source[None, :, :, None].expand_as(joined)), visible.gather(1, source))


def _all_visible(prefix: Prefix) -> Tensor:
    rows, length = prefix.states.shape[1:3]
    return torch.ones((rows, length), dtype=torch.bool, device=prefix.states.device)


class _Value(NamedTuple):
    """What flows at the site: the prefix, and what the attention reads, [rows, tokens, hidden]."""

    prefix: Prefix
    input: Tensor


@dataclass
class _CoreRun:
    """One run of a program: its registers, and the states of each part that was met."""

    frame: Frame
    registers: dict[int, _Value]
    made: dict[int, Tensor] = field(default_factory=dict)

    def states(self, part: PrefixPart) -> Tensor:
        """The keys and values of a part, made once a run."""
        if id(part) not in self.made:
            self.made[id(part)] = part.states(self._hidden(part))
        return self.made[id(part)]

    def _hidden(self, part: PrefixPart) -> Tensor | None:
        """What the part's source gives, made once a call where no gradients are asked for.

        Where they are, each layer makes it for itself: a layer that is checkpointed must record the same in its
        recomputation, which sees nothing of the others, as in its first run.
        """
        if part.source is None or torch.is_grad_enabled():
            return None
        key = ("prefix source", id(part.source))
        if key not in self.frame.scratch:
            self.frame.scratch[key] = part.source()
        hidden: Tensor = self.frame.scratch[key]
        return hidden


def run_prefixes(frame: Frame, bound: BoundProgram, input: Tensor, width: int) -> Prefix:
    """The virtual tokens of all rows of a call at one attention.

    Args:
        frame: the call.
        bound: the program.
        input: what the attention reads, [classes x batch, tokens, hidden].
        width: of the attention's keys, and of its values.
    """
    program = bound.program
    nothing = Prefix(input.new_empty((2, 1, 0, width), dtype=bound.dtype))
    pieces = input.to(bound.dtype).chunk(program.classes)
    site = _CoreRun(frame, {index: _Value(nothing, piece) for index, piece in enumerate(pieces)})
    for step in bound.steps:
        for operation, output in zip(step.operations, step.outputs, strict=True):
            site.registers[output] = HANDLERS[operation.operation.kind](site, operation)
    found = [site.registers[register].prefix for register in program.results]
    return found[0] if len(found) == 1 else _over_each_other(found, frame.batch)


def _over_each_other(prefixes: Sequence[Prefix], rows: int) -> Prefix:
    """The prefixes of several classes of rows, padded to the longest."""
    padded = _alike(prefixes)
    states = torch.cat([prefix.expanded(rows).states for prefix in padded], dim=1)
    visible = [prefix.visible.expand(rows, -1) for prefix in padded if prefix.visible is not None]
    return Prefix(states, torch.cat(visible) if visible else None)


def _alike(prefixes: Sequence[Prefix]) -> list[Prefix]:
    """Padded to the longest; all with a mask of what is visible, or none."""
    longest = max(prefix.length for prefix in prefixes)
    padded = [prefix.padded(longest) for prefix in prefixes]
    if all(prefix.visible is None for prefix in padded):
        return padded
    return [
        prefix if prefix.visible is not None else prefix._replace(visible=_all_visible(prefix)) for prefix in padded
    ]


def _adapter(site: _CoreRun, bound: BoundOperation) -> _Value:
    value = site.registers[bound.inputs[0]]
    part: Part | None = bound.part
    assert isinstance(part, PrefixPart)
    return value._replace(prefix=value.prefix.preceded_by(part.rows(site.states(part), value.input)))


def _average(site: _CoreRun, bound: BoundOperation) -> _Value:
    """The weighted sum of what the children add; compilation saw to it that all add the same number."""
    value = site.registers[bound.inputs[0]]
    children = [site.registers[register].prefix for register in bound.inputs[1:]]
    own = children[0].length - value.prefix.length
    base = value.prefix.preceded_by(value.prefix.states.new_zeros((2, 1, own, value.prefix.states.shape[3]))).states
    states = base
    for child, weight in zip(children, bound.operation.weights, strict=True):
        states = states + weight * (child.states - base)
    return value._replace(prefix=children[0]._replace(states=states))


def _split(site: _CoreRun, bound: BoundOperation) -> _Value:
    value = site.registers[bound.inputs[0]]
    index = site.frame.selections[bound.chains[0]]

    def take(tensor: Tensor, dimension: int) -> Tensor:
        if isinstance(index, slice):
            return tensor.narrow(dimension, index.start, index.stop - index.start)
        return tensor.index_select(dimension, index)

    prefix = value.prefix
    if prefix.states.shape[1] > 1:
        prefix = Prefix(take(prefix.states, 1), None if prefix.visible is None else take(prefix.visible, 0))
    return _Value(prefix, take(value.input, 0))


def _join(site: _CoreRun, bound: BoundOperation) -> _Value:
    value = site.registers[bound.inputs[0]]
    given = [value.prefix, *(site.registers[register].prefix for register in bound.inputs[1:])]
    base, *pieces = _alike(given)
    whole = base.expanded(len(value.input))
    rows = [places(site.frame.selections[chain], value.input.device) for chain in bound.chains]
    taken = [piece.expanded(len(index)) for piece, index in zip(pieces, rows, strict=True)]
    index = torch.cat(rows)
    states = whole.states.index_copy(1, index, torch.cat([piece.states for piece in taken], dim=1))
    seen = [piece.visible for piece in taken if piece.visible is not None]
    visible = None if whole.visible is None else whole.visible.index_copy(0, index, torch.cat(seen))
    return value._replace(prefix=Prefix(states, visible))


def _dropped(site: _CoreRun, bound: BoundOperation) -> _Value:
    return site.registers[bound.inputs[0]]


HANDLERS: Mapping[str, Callable[[_CoreRun, BoundOperation], _Value]] = {
    "adapter": _adapter,
    "average": _average,
    "split": _split,
    "join": _join,
    "dropped": _dropped,
}
