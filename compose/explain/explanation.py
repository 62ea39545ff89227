"""What `explain` found out, as data; `str` gives the text."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from compose.dsl import Expression, to_json, to_text
from compose.explain.tree import tree
from compose.graph.draw import dot, mermaid
from compose.graph.graph import Graph
from compose.specs import EMBED, STATES

BYTES = 4
"""Of a weight; costs are given for float32."""


OUTSIDE = {EMBED: "the embeddings' output", STATES: "all layers' states"}
"""What is acted on at a site outside the layers."""
PARTING = {EMBED: "after the embeddings", STATES: "after the layers"}
"""Where branches part that do so outside the layers."""


@dataclass(frozen=True)
class Price:
    """What a way to the answers costs.

    Args:
        flops: twice the multiply-adds of all products of matrices.
        bytes: of the weights read, in float32.
        passes: how often the backbone is run.
    """

    flops: int
    bytes: int
    passes: int = 1


@dataclass(frozen=True)
class LayerRange:
    """Consecutive layers in which the same is done on the same rows.

    Args:
        first: index of the first layer.
        last: index of the last.
        stack: `encoder` or `decoder`; `embed` for what acts on the embeddings' output; `states` for what comes
            after the layers and reads the states of all.
        classes: groups of branches that are computed together, at the range's input.
        classes_after: the same at its output: more where branches part.
        rows: rows at its input.
        rows_after: rows at its output.
        sites: for each site at which something acts, what.
        flops: of all its layers, adapters included.
        bytes: of the weights that they read.
    """

    first: int
    last: int
    stack: str
    classes: int
    classes_after: int
    rows: int
    rows_after: int
    sites: tuple[tuple[str, tuple[str, ...]], ...]
    flops: int
    bytes: int


@dataclass(frozen=True)
class Fork:
    """A place where branches part.

    Args:
        layer: in or before which layer.
        site: after which site; empty at the layer's input.
        branches: for each group that leaves, its branches' numbers.
        why: what they differ in.
    """

    layer: int
    site: str
    branches: tuple[tuple[int, ...], ...]
    why: str


@dataclass(frozen=True)
class HeadRows:
    """An output's head.

    Args:
        task: the task, None if it has no name.
        kind: the kind of head, None if there is none.
        branch: the branch whose states it reads.
        rows: number of rows; equal shares where rows are routed.
        flops: of the head alone.
    """

    task: str | None
    kind: str | None
    branch: int
    rows: float
    flops: int


@dataclass(frozen=True)
class Explanation:
    """What a plan runs, and what it costs for a batch.

    Args:
        expression: what was compiled.
        architecture: of the backbone.
        rows: of the batch.
        tokens: of a row.
        decoder_tokens: of a row in the decoder, None without one.
        branches: the branches' names for people.
        ranges: the layers.
        forks: where branches part.
        heads: the outputs.
        cost: of the plan.
        separate: of one pass for each branch, each compiled alone.
        plain: of the backbone alone, without heads.
        notes: what was assumed.
        graph: the graph after all passes, for pictures.
    """

    expression: Expression
    architecture: str
    rows: int
    tokens: int
    decoder_tokens: int | None
    branches: tuple[str, ...]
    ranges: tuple[LayerRange, ...]
    forks: tuple[Fork, ...]
    heads: tuple[HeadRows, ...]
    cost: Price
    separate: Price
    plain: Price
    notes: tuple[str, ...]
    graph: Graph = field(repr=False, compare=False)

    @property
    def flops(self) -> int:
        """FLOPs of the plan: twice the multiply-adds, attention included."""
        return self.cost.flops

    @property
    def separate_flops(self) -> int:
        """FLOPs of one pass for each branch."""
        return self.separate.flops

    @property
    def bytes(self) -> int:
        """Bytes of the weights that the plan reads."""
        return self.cost.bytes

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain data for JSON."""
        names = ("architecture", "rows", "tokens", "decoder_tokens", "branches", "notes")
        return {
            "expression": to_json(self.expression),
            "text": to_text(self.expression),
            **{name: _plain(getattr(self, name)) for name in names},
            "layers": [
                {**asdict(layers), "sites": {site: list(acts) for site, acts in layers.sites}} for layers in self.ranges
            ],
            "forks": [_plain(asdict(fork)) for fork in self.forks],
            "heads": [asdict(head) for head in self.heads],
            "cost": asdict(self.cost),
            "separate": asdict(self.separate),
            "plain": asdict(self.plain),
        }

    def mermaid(self) -> str:
        """The graph as a Mermaid flowchart."""
        return mermaid(self.graph)

    def dot(self) -> str:
        """The graph for Graphviz."""
        return dot(self.graph)

    def __str__(self) -> str:
        decoder = "" if self.decoder_tokens is None else f", {self.decoder_tokens} in the decoder"
        parts = [
            tree(self.expression),
            f"{self.architecture}, {_count(self.rows, 'row')} of {_count(self.tokens, 'token')}{decoder}",
            "\n".join(self._layer_lines()),
        ]
        if self.forks:
            parts.append("\n".join(["forks", *(f"  {self._fork_line(fork)}" for fork in self.forks)]))
        parts.append("\n".join(_table([("head", "kind", "rows", "FLOPs"), *map(_head_cells, self.heads)])))
        parts.append("\n".join(_table(self._cost_cells())))
        if self.notes:
            parts.append("\n".join(f"note: {note}" for note in self.notes))
        return "\n\n".join(parts)

    def _layer_lines(self) -> list[str]:
        lines = []
        for layers in self.ranges:
            where = f"layer {layers.first}" if layers.first == layers.last else f"layers {layers.first}-{layers.last}"
            stack = f" ({layers.stack})" if self.decoder_tokens is not None else ""
            if layers.stack in OUTSIDE:
                where, stack = OUTSIDE[layers.stack], ""
            lines.append(
                f"{where}{stack}: {self._rows_of(layers)}, {readable(layers.flops)}FLOPs, "
                f"{readable(layers.bytes)}B of weights"
            )
            lines += [f"  {site}: {' | '.join(acts)}" for site, acts in layers.sites]
        return lines

    def _rows_of(self, layers: LayerRange) -> str:
        before = self._group(layers.classes, layers.rows)
        if layers.rows == layers.rows_after:
            return before
        return f"{before}, then {self._group(layers.classes_after, layers.rows_after)}"

    def _group(self, classes: int, rows: int) -> str:
        if len(self.branches) == 1:
            return _count(rows, "row")
        groups = "trunk" if classes == 1 else _count(classes, "branch", "branches")
        return f"{groups}, {_count(rows, 'row')}"

    def _fork_line(self, fork: Fork) -> str:
        where = f"after {fork.site} of layer {fork.layer}" if fork.site else f"at the input of layer {fork.layer}"
        if fork.site in PARTING:
            where = PARTING[fork.site]
        groups = (", ".join(self.branches[branch] for branch in group) for group in fork.branches)
        return f"{where}: {' | '.join(groups)}; {fork.why}"

    def _cost_cells(self) -> list[tuple[str, ...]]:
        rows: list[tuple[str, ...]] = [("cost", "FLOPs", "", "weights read", "")]
        passes = _count(self.separate.passes, "separate pass", "separate passes")
        for name, price in (
            ("this plan", self.cost),
            (passes, self.separate),
            ("plain backbone", self.plain),
        ):
            of_flops, of_bytes = _times(price.flops, self.flops), _times(price.bytes, self.bytes)
            rows.append((name, readable(price.flops), of_flops, f"{readable(price.bytes)}B", of_bytes))
        return rows


def readable(number: float) -> str:
    """A number with three digits and a unit's prefix.

    >>> readable(1234), readable(25e9), readable(7)
    ('1.23 k', '25.0 G', '7 ')
    """
    prefixes = iter(("", "k", "M", "G", "T", "P", "E"))
    prefix = next(prefixes)
    while number >= 999.5 and prefix != "E":
        number, prefix = number / 1000, next(prefixes)
    digits = 0 if not prefix and number == int(number) else 2 if number < 9.995 else 1 if number < 99.95 else 0
    return f"{number:.{digits}f} {prefix}"


def _times(number: int, base: int) -> str:
    return "" if number == base or not base else f"({number / base:.2f} times)"


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def _head_cells(head: HeadRows) -> tuple[str, ...]:
    flops = readable(head.flops) if head.kind else ""
    return (head.task or f"branch {head.branch}", head.kind or "no head yet", f"{head.rows:.4g}", flops)


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _plain(value: Any) -> Any:
    """Tuples as lists."""
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value
