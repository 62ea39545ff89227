"""The constant products of a plan's fusions, fetched before a call: compiled code cannot tell whether they hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from compose.methods.fusion.module_fold import Products
from compose.methods.fusion.part import FusionPart
from compose.methods.part import Part
from compose.runtime.bind import BoundOperation, BoundProgram, FoldKey


class Foldable(NamedTuple):
    """A fusion whose products can be made beforehand.

    Args:
        key: which one of the plan's.
        fusion: its weights.
        parts: the adapter that each candidate comes from, None for one that is dense or zero.
        dense: whether any of them is dense.
    """

    key: FoldKey
    fusion: FusionPart
    parts: tuple[Part | None, ...]
    dense: bool

    def fold(self) -> Products:
        """Its products, made anew if a weight has changed."""
        return self.fusion.fold([None if part is None else part.factors() for part in self.parts], self.dense)


def foldable(programs: Iterable[BoundProgram]) -> tuple[Foldable, ...]:
    """The fusions of some programs that run folded."""
    found = []
    for program in programs:
        made = {
            output: operation
            for step in program.steps
            for operation, output in zip(step.operations, step.outputs, strict=True)
        }
        for operation in made.values():
            if operation.fusion is not None and operation.fold is not None and operation.operation.form == "folded":
                slots = operation.operation.slots
                given = iter([_part(made.get(register)) for register in operation.inputs[1:]])
                parts = tuple(next(given) if slot else None for slot in slots)
                dense = any(slot and part is None for slot, part in zip(slots, parts, strict=True))
                found.append(Foldable(operation.fold, operation.fusion, parts, dense))
    return tuple(found)


def folds_of(fusions: Iterable[Foldable]) -> Mapping[FoldKey, Products]:
    """Their products as weights are now."""
    return {one.key: one.fold() for one in fusions}


def _part(made: BoundOperation | None) -> Part | None:
    """The adapter that a low-rank candidate comes from; None for a dense one."""
    if made is None or made.operation.kind != "increment" or made.operation.form != "low_rank" or made.part is None:
        return None
    return made.part if made.part.factors() is not None else None
