"""Operations that run together: siblings of one shape, increments of one value."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from compose.methods.part import Context, required
from compose.methods.row_tokens import RowTokens
from compose.runtime.bind import BoundStep
from compose.runtime.lengths import Value
from compose.runtime.site import SiteRun

CACHED = 2**18
"""Numbers in a branch's value up to which siblings run together on a CPU.

Beyond, a grouped product moves more through memory than it saves in calls, and one branch after the other finds its
value in the cache: with 8 branches of width 768 and 8 x 128 tokens, group by group costs 2 to 4% of the pass more.
"""


def pays(site: SiteRun, step: BoundStep) -> bool:
    """Whether a step's operations run together; the result is the same either way."""
    if len(step.operations) == 1 or step.operations[0].operation.kind != "adapter":
        return len(step.operations) > 1
    y: Tensor = site.registers[step.operations[0].inputs[0]].y
    return y.device.type != "cpu" or torch.compiler.is_compiling() or y.numel() <= CACHED


def _increment_group(site: SiteRun, step: BoundStep, context: Context) -> None:
    """Increments of one shape that read the same value: their first products are one."""
    first = step.operations[0]
    assert first.shared is not None
    given = site.prepare(first.inputs[0], first.shared)
    parts = step.parts
    found = type(parts[0]).low_ranks(parts, given.input)
    for output, part, factors in zip(step.outputs, parts, found, strict=True):
        site.registers[output] = part.increment_at(given) if factors is None else factors


def _adapter_group(site: SiteRun, step: BoundStep, context: Context) -> None:
    """Siblings of one shape, as one grouped product."""
    registers = tuple(operation.inputs[0] for operation in step.operations)
    values: list[Value] = [site.registers[register] for register in registers]
    count = len(values)

    def stacked(pick: Callable[[Value], Tensor | None], whole: Tensor | None) -> Tensor | None:
        tensors = [tensor for tensor in map(pick, values) if tensor is not None]
        if not tensors:
            return None
        if whole is not None:
            return whole.unflatten(0, (count, -1))
        if all(tensor is tensors[0] for tensor in tensors):
            return tensors[0].expand(count, *tensors[0].shape)
        return torch.stack(tensors)

    parts = step.parts
    whole = site.wholes.get(registers)
    entering = whole is not None and registers == tuple(range(count))
    reads_output = any(part.reads_output for part in parts)
    tokens = [value.context.row_tokens for value in values if value.context.row_tokens is not None]
    grouped = context._replace(
        residual=stacked(lambda value: value.context.residual, context.residual if entering else None),
        input=stacked(lambda value: value.context.input, context.input if entering else None),
        output=stacked(lambda value: value.context.output, whole if entering else None) if reads_output else None,
        row_tokens=RowTokens.together(tokens) if tokens else None,
    )
    ys = required(stacked(lambda value: value.y, whole), "value")
    result = type(parts[0]).grouped(parts, ys, grouped)
    site.wholes[step.outputs] = result.flatten(0, 1)
    for register, value, y in zip(step.outputs, values, result.unbind(0), strict=True):
        site.registers[register] = value._replace(y=y)


GROUPS: dict[str, Callable[[SiteRun, BoundStep, Context], None]] = {
    "adapter": _adapter_group,
    "increment": _increment_group,
}
