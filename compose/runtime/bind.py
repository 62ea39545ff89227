"""Gives a plan's programs the modules that they use, so that a call looks nothing up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from compose.graph.graph import Operation
from compose.graph.pieces import Span
from compose.methods.fusion.part import FusionPart
from compose.methods.part import Part
from compose.plan import SiteProgram
from compose.runtime.named import NamedModules
from compose.runtime.rows import Chain

FoldKey = tuple[int, str, int]
"""Which fusion of a plan: layer, site, and the register that it writes."""


@dataclass(frozen=True)
class BoundOperation:
    """An operation with the modules it uses.

    Args:
        operation: the operation.
        inputs: the registers it reads.
        part: the adapter's weights here.
        fusion: the fusion's weights here.
        shared: the weights here of the adapter whose options prepare the input.
        chains: for each selector the chain that ends with it.
        fold: a fusion's key among the products that are made beforehand.
    """

    operation: Operation
    inputs: tuple[int, ...]
    part: Part | None = None
    fusion: FusionPart | None = None
    shared: Part | None = None
    chains: tuple[Chain, ...] = ()
    fold: FoldKey | None = None


@dataclass(frozen=True)
class BoundStep:
    """One step: its operations (several for a group) and the registers they write."""

    operations: tuple[BoundOperation, ...]
    outputs: tuple[int, ...]

    @property
    def parts(self) -> list[Part]:
        """The weights of each adapter, where all operations are adapters or increments."""
        return [operation.part for operation in self.operations if operation.part is not None]


@dataclass(frozen=True)
class BoundProgram:
    """A site's program with its modules."""

    program: SiteProgram
    steps: tuple[BoundStep, ...]
    dtype: torch.dtype


class Modules(NamedTuple):
    """Where a program's names are looked up."""

    adapters: NamedModules
    fusions: NamedModules
    dtype: torch.dtype


def bind(program: SiteProgram, modules: Modules) -> BoundProgram:
    """Looks up the modules of a program."""
    chains: dict[int, Chain] = dict.fromkeys(range(program.classes), ())
    steps = []
    for step in program.steps:
        operations = tuple(
            _bind(operation, inputs, output, modules, chains)
            for operation, inputs, output in zip(step.operations, step.inputs, step.outputs, strict=True)
        )
        for bound, output in zip(operations, step.outputs, strict=True):
            chains[output] = _chain_after(bound, chains)
        steps.append(BoundStep(operations, step.outputs))
    return BoundProgram(program, tuple(steps), modules.dtype)


def _bind(
    operation: Operation, inputs: tuple[int, ...], output: int, modules: Modules, chains: dict[int, Chain]
) -> BoundOperation:
    def part(name: str) -> Part:
        found: Part = modules.adapters[name].part(operation.layer, operation.site)
        return found

    match operation.kind:
        case "adapter":
            return BoundOperation(operation, inputs, part=part(operation.name))
        case "increment":
            return BoundOperation(operation, inputs, part=part(operation.name), shared=part(operation.prepared_by))
        case "fuse" | "mixture":
            fusion = modules.fusions[operation.name].part(operation.layer, operation.site)
            key = (operation.layer, operation.site, output)
            return BoundOperation(operation, inputs, fusion=fusion, shared=part(operation.prepared_by), fold=key)
        case "split" | "join":
            before = chains[inputs[0]]
            selected = tuple((*before, selector) for selector in operation.selectors)
            return BoundOperation(operation, inputs, chains=selected)
    return BoundOperation(operation, inputs)


def _chain_after(bound: BoundOperation, chains: dict[int, Chain]) -> Chain:
    """The row selectors that an operation's result has gone through."""
    if bound.operation.kind == "split" and not isinstance(bound.operation.selectors[0], Span):
        return bound.chains[0]
    return chains[bound.inputs[0]]


def row_chains(programs: Sequence[BoundProgram]) -> set[Chain]:
    """The chains of row selectors that programs use."""
    return {
        chain
        for program in programs
        for step in program.steps
        for operation in step.operations
        for chain in operation.chains
        if not isinstance(chain[-1], Span)
    }
