"""What single operations cost: multiply-adds, and the weights that they read.

Counted are the products of matrices, as `torch.utils.flop_counter` counts them with eager attention (a FLOP
count is twice the multiply-adds); sums, activations and LayerNorms are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from compose.dsl import Routed, Slice
from compose.errors import InputError
from compose.graph.graph import ACTING, Operation
from compose.graph.pieces import Selector
from compose.graph.sites import Vocabulary
from compose.specs import ActingSpec, BackboneSpec, HeadSpec, SiteSpec, SubLayerSpec

FUSIONS = frozenset({"fuse", "mixture"})


class Cost(NamedTuple):
    """Multiply-adds, and weights read."""

    multiplies: float = 0.0
    weights: int = 0

    def __add__(self, other: object) -> Cost:
        assert isinstance(other, tuple)
        return Cost(self.multiplies + other[0], self.weights + other[1])


class Extent(NamedTuple):
    """The rows and tokens of a value, and the task that its rows are routed to."""

    rows: float
    tokens: int
    routed: str | None = None


def piece(selector: Selector, extent: Extent, tasks: int) -> Extent:
    """What a selector takes of a value; routed rows are taken to be the same number for each of `tasks`.

    Raises:
        InputError: if sizes do not fit.
    """
    if isinstance(selector, Routed):
        if extent.routed is None:
            return Extent(extent.rows / tasks, extent.tokens, selector.task)
        return extent if extent.routed == selector.task else extent._replace(rows=0.0)
    if isinstance(selector, Slice):
        return extent._replace(rows=_size(selector.sizes, selector.index, extent.rows, "BatchSplit", "rows"))
    taken = _size(selector.sizes, selector.index, extent.tokens, "Split", "tokens")
    return extent._replace(tokens=int(taken))


def _size(sizes: Sequence[int | None], index: int, total: float, block: str, what: str) -> float:
    known = sum(size for size in sizes if size is not None)
    if known > total or (known < total and None not in sizes):
        raise InputError(
            f"the sizes of {block} add up to {known}, but there are {total:g} {what}",
            hint=f"explain({what}={known})" if None not in sizes else f"explain({what}=...) with more {what}",
        )
    size = sizes[index]
    return total - known if size is None else float(size)


def sublayer_cost(sublayer: SubLayerSpec, rows: float, tokens: int, memory_tokens: int) -> Cost:
    """The backbone's own part of a sub-layer; attention is counted over the full square of tokens."""
    keys = memory_tokens if sublayer.memory_multiplies else tokens
    a_row = sublayer.multiplies * tokens + sublayer.memory_multiplies * memory_tokens
    a_row += 2 * sublayer.attention_width * tokens * keys
    return Cost(rows * a_row, sublayer.multiplies + sublayer.memory_multiplies)


def before_layers(backbone: BackboneSpec, rows: float) -> Cost:
    """What comes before the layers: patch embeddings. The same weights meet every patch."""
    a_row: int = backbone.input_multiplies
    patches = max((backbone.tokens or 1) - 1, 1)
    return Cost(rows * a_row, a_row // patches)


def after_layers(backbone: BackboneSpec, rows: float) -> Cost:
    """What comes after the layers, on one token a row: poolers."""
    return Cost(rows * backbone.fixed_multiplies, backbone.fixed_multiplies)


def head_cost(head: HeadSpec, rows: float, tokens: int) -> Cost:
    """A head on the rows of its output."""
    a_row = head.token_multiplies * tokens + head.row_multiplies
    return Cost(rows * a_row, head.token_multiplies + head.row_multiplies)


def operation_cost(
    operation: Operation, sources: Sequence[Operation | None], extent: Extent, vocabulary: Vocabulary
) -> Cost:
    """An operation at a site.

    Args:
        operation: the operation.
        sources: the operations that made its inputs; None for the site's own value.
        extent: rows and tokens of its first input.
        vocabulary: backbone, adapters, fusions.
    """
    site = vocabulary.backbone.site(operation.layer, operation.site)
    if operation.kind in ACTING:
        part = _part(operation, vocabulary)
        acting, weights = _acting(operation, sources[1:], site, part, extent.tokens)
        a_row = part.row_multiplies + part.pair_multiplies * extent.tokens**2
        once = part.call_multiplies * (operation.kind != "adapter" or len(sources) == 1)
        return Cost((acting + a_row) * extent.rows + once, weights)
    if operation.kind in FUSIONS:
        return _fusion(operation, sources[1:], site, vocabulary, extent.rows * extent.tokens)
    return Cost()


def _part(operation: Operation, vocabulary: Vocabulary) -> ActingSpec:
    return vocabulary.adapters[operation.name].by_site[operation.layer, operation.site]


def _acting(
    operation: Operation, shared: Sequence[Operation | None], site: SiteSpec, part: ActingSpec, tokens: int
) -> tuple[int, int]:
    """Multiply-adds a row of so many tokens, and weights."""
    acted, up = part.acted(tokens), (part.columns or part.rank) * site.width_out
    if operation.kind == "adapter" and shared:
        # Its increment is there already, or all of it but the up-projection, which meets every token.
        factors = any(source is not None and source.form == "low_rank" for source in shared)
        return (part.multiplies - part.increment_multiplies) * acted + factors * up * tokens, 0
    if operation.kind == "adapter":
        return part.multiplies * acted, part.parameters
    if operation.form == "low_rank":  # the up-projection is left to the fusion that reads it
        return (part.increment_multiplies - part.rank * site.width_out) * acted, max(part.parameters - up, 0)
    return part.increment_multiplies * acted, part.parameters


def _fusion(
    operation: Operation,
    sources: Sequence[Operation | None],
    site: SiteSpec,
    vocabulary: Vocabulary,
    tokens: float,
) -> Cost:
    """A fusion over so many tokens of all rows: see `FusionPart`, which has a method for each form."""
    spec, width = vocabulary.fusions[operation.name], site.width_out
    if spec.by_place:
        return _scaling(operation, sources, site, vocabulary, tokens)
    square = width * width
    query, key, value = (square * has for has in (spec.query, spec.key, spec.value))
    if not operation.form:
        count = len(operation.slots)
        return Cost((query + count * (key + value + 2 * width)) * tokens, query + key + value)
    factored = [source for source in sources if source is not None and source.form == "low_rank"]
    columns = sum(_columns(_part(source, vocabulary)) for source in factored)
    once = 2 * width * columns
    if operation.form == "unfolded":
        met = columns if columns and len(factored) == len(sources) else tokens
        return Cost((query + key + value) * min(met, tokens) + once * tokens, query + key + value + once // 2)
    if len(factored) == len(sources):
        return Cost(once * tokens, once)
    # Dense candidates are compared with the query itself, so that only query and key fold into one.
    square_left = (square if spec.query or spec.key else 0) + value
    return Cost((square_left + once) * tokens, square_left + once // 2)


def _scaling(
    operation: Operation,
    sources: Sequence[Operation | None],
    site: SiteSpec,
    vocabulary: Vocabulary,
    tokens: float,
) -> Cost:
    """A fusion that scales: what its children leave to it is one product; see `ScaLearnPart`."""
    spec, width = vocabulary.fusions[operation.name], site.width_out
    scales = spec.children * (1 if spec.kind == "scale" else width)
    factored = [source for source in sources if source is not None and source.form == "low_rank"]
    ups = width * sum(_part(source, vocabulary).rank for source in factored)
    return Cost(ups * tokens, ups + (0 if operation.form == "folded" else scales))


def _columns(part: ActingSpec) -> int:
    """The columns of an increment's up-projection: its rank unless it says otherwise, and one for a constant term."""
    return part.columns or part.rank + part.biased
