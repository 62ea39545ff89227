"""What a model holds, as a table."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from compose.runtime.model import Model


@dataclass(frozen=True)
class SummaryRow:
    """One adapter, fusion or head, or the backbone.

    Args:
        name: its name.
        what: `adapter`, `fusion`, `head` or `backbone`.
        method: the method or kind.
        parameters: number of weights.
        bytes: their size in memory.
        trainable: number of weights that are trained.
        sparsity: the share of an adapter's matrices that was pruned.
    """

    name: str
    what: str
    method: str
    parameters: int
    bytes: int
    trainable: int
    sparsity: float = 0.0


@dataclass(frozen=True)
class Summary:
    """A model's holdings; `str` gives a table, `rows` the figures."""

    rows: tuple[SummaryRow, ...]

    def __str__(self) -> str:
        head = ("name", "what", "method", "parameters", "size", "trainable")
        body = [
            (
                row.name,
                row.what,
                f"{row.method}, {row.sparsity:.0%} sparse" if row.sparsity else row.method,
                f"{row.parameters:,}",
                readable_size(row.bytes),
                "yes"
                if row.trainable == row.parameters and row.parameters
                else f"{row.trainable:,}"
                if row.trainable
                else "no",
            )
            for row in self.rows
        ]
        widths = [max(len(line[column]) for line in (head, *body)) for column in range(len(head))]
        right = (3, 4)
        lines = [
            "  ".join(
                cell.rjust(width) if column in right else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in (head, tuple("-" * width for width in widths), *body)
        ]
        return "\n".join(lines)


def readable_size(count: int) -> str:
    """Bytes in the largest unit that leaves a number of at least 1.

    >>> readable_size(3_578_112)
    '3.4 MiB'
    """
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def _row(name: str, what: str, method: str, module: nn.Module) -> SummaryRow:
    parameters = list(module.parameters())
    return SummaryRow(
        name,
        what,
        method,
        sum(p.numel() for p in parameters),
        sum(p.numel() * p.element_size() for p in parameters),
        sum(p.numel() for p in parameters if p.requires_grad),
    )


def summarize(model: Model) -> Summary:
    """The summary of a model."""
    rows = [_row(model.spec.architecture, "backbone", f"{len(model.spec.layers)} layers", model.backbone)]
    rows += [
        replace(_row(name, "adapter", adapter.config.method, adapter), sparsity=adapter.masks.sparsity())
        for name, adapter in model.adapters.items()
    ]
    rows += [_row(name, "fusion", fusion.config.about(), fusion) for name, fusion in model.fusions.items()]
    rows += [_row(name, "head", head.config.kind, head) for name, head in model.heads.items()]
    return Summary(tuple(rows))
