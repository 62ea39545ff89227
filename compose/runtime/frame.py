"""The running call. A plan belongs to a call: what hooks read and hand to each other lives in its frame."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from compose.methods.fusion.module_fold import Products
    from compose.plan import Plan, SiteKey
    from compose.runtime.bind import BoundProgram, FoldKey
    from compose.runtime.lengths import Longer
    from compose.runtime.longer import Entrance
    from compose.runtime.rows import Chain


@dataclass
class Frame:
    """One call of one plan.

    Args:
        plan: what is run.
        programs: the plan's programs with the modules they use.
        batch: rows of the batch, before anything is repeated.
        selections: for each chain of selectors the rows or tokens it takes, as made by `rows.select`.
        owner: the hooks that it is for; those of another model on the same backbone let it pass.
        attention: where fusion weights are kept by (fusion, layer, site); None if nobody asked.
        kept: where what each layer is given is kept by its index, and by their number what the last one
            hands on; None if nobody asked.
        folds: products of fusions that were made beforehand, for compiled code.
        masks: for each stack [rows, tokens], 0 where a token is padding; None: none is.
        entrance: how the backbone is entered after its embeddings, where prompts make rows longer.
        longer: where prompts made rows longer, what the layers begin with; they have acted then.
    """

    plan: Plan
    programs: Mapping[SiteKey, BoundProgram]
    batch: int
    selections: Mapping[Chain, slice | Tensor]
    owner: object
    attention: dict[tuple[str, int, str], list[Tensor]] | None = None
    kept: dict[int, Tensor] | None = None
    folds: Mapping[FoldKey, Products] = field(default_factory=dict)
    masks: Mapping[str, Tensor | None] = field(default_factory=dict)
    entrance: Entrance | None = None
    longer: Longer | None = None
    scratch: dict[object, Any] = field(default_factory=dict)
    repeated: dict[object, tuple[Any, Any]] = field(default_factory=dict)
    temperatures: dict[tuple[str, int, str], Tensor | None] = field(default_factory=dict)

    def again(self) -> Frame:
        """The same call for a recomputation: nothing that hooks had handed on is seen.

        But for the temperatures of fusions, which fall when the call is over.
        """
        call = (self.plan, self.programs, self.batch, self.selections, self.owner)
        return Frame(*call, masks=self.masks, longer=self.longer, temperatures=self.temperatures)


class Running(threading.local):
    """The frame of the call that runs on this thread. Dynamo traces a `threading.local`, not a ContextVar."""

    def __init__(self) -> None:
        # An attribute of each thread's own dictionary from the start: Dynamo guards on what that has.
        self.frame: Frame | None = None


running = Running()


@contextmanager
def entered(frame: Frame) -> Iterator[None]:
    """Makes a frame the running one."""
    before = running.frame
    running.frame = frame
    try:
        yield
    finally:
        running.frame = before
