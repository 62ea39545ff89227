"""What one run of a site's program holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from compose.graph.pieces import Span
from compose.methods.part import Part, Prepared
from compose.runtime.frame import Frame
from compose.runtime.lengths import Value
from compose.runtime.rows import Chain, span


@dataclass
class SiteRun:
    """One run of a program: its registers, and inputs that several children share."""

    frame: Frame
    registers: dict[int, Any]
    prepared: dict[tuple[int, int], Prepared] = field(default_factory=dict)
    wholes: dict[tuple[int, ...], Tensor] = field(default_factory=dict)

    def prepare(self, register: int, part: Part) -> Prepared:
        """What an adapter's options make of a value; computed once per value and adapter."""
        key = (register, id(part))
        if key not in self.prepared:
            value: Value = self.registers[register]
            self.prepared[key] = part.prepare(value.y, value.context)
        return self.prepared[key]

    def select(self, chain: Chain, tensor: Tensor) -> tuple[int, slice | Tensor]:
        """The dimension and index that a chain's last selector takes of a value."""
        selector = chain[-1]
        if isinstance(selector, Span):
            return 1, span(selector, tensor.shape[1])
        return 0, self.frame.selections[chain]
