"""The constant products of a plan's fusions, fetched before a call: compiled code cannot tell whether they hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from compose.methods.fusion.module import FusionPart
from compose.methods.fusion.module_fold import Folded
from compose.methods.part import Factors, Part
from compose.runtime.bind import BoundOperation, BoundProgram, FoldKey


class Foldable(NamedTuple):
    """A fusion whose products can be made beforehand.

    Args:
        key: which one of the plan's.
        fusion: its weights.
        parts: the adapters that its low-rank candidates come from, in order.
        dense: whether it has other candidates.
    """

    key: FoldKey
    fusion: FusionPart
    parts: tuple[Part, ...]
    dense: bool

    def fold(self) -> Folded:
        """Its products, made anew if a weight has changed."""
        found = [part.factors() for part in self.parts]
        factors: Sequence[Factors] = [one for one in found if one is not None]
        return self.fusion.fold(factors, self.dense)


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
                candidates = [_part(made.get(register)) for register in operation.inputs[1:]]
                parts = tuple(part for part in candidates if part is not None)
                found.append(Foldable(operation.fold, operation.fusion, parts, len(parts) < len(candidates)))
    return tuple(found)


def folds_of(fusions: Iterable[Foldable]) -> Mapping[FoldKey, Folded]:
    """Their products as weights are now."""
    return {one.key: one.fold() for one in fusions}


def _part(made: BoundOperation | None) -> Part | None:
    """The adapter that a low-rank candidate comes from; None for a dense one."""
    if made is None or made.operation.kind != "increment" or made.operation.form != "low_rank" or made.part is None:
        return None
    return made.part if made.part.factors() is not None else None
