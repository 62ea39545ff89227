"""Fusions with fewer children: those that count least go (AdapterDrop, Rücklé et al., 2021, arXiv:2010.11918)."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compose.dsl import Expression, Fuse, as_expression, fuses, leaves, own_name, to_text
from compose.errors import ConfigError, ExpressionError, RegistryError
from compose.io.records import FusionRecord
from compose.runtime.fusions import fusion_from
from compose.runtime.shares import SiteShares, child_names, fusion_shares

if TYPE_CHECKING:
    from compose.runtime.model import Model


@dataclass(frozen=True)
class Pruned:
    """A fusion that was pruned; prints as a table.

    Args:
        fuse: the Fuse of the children that are left; its weights are in the model.
        children: the names of the children that there were.
        kept: the places among them of those that are left.
        rows: what each child counted, by its place, at each site.
        mean: what each child counted in the mean over the sites.
    """

    fuse: Fuse
    children: tuple[str, ...]
    kept: tuple[int, ...]
    rows: tuple[SiteShares, ...]
    mean: tuple[float, ...]

    def __str__(self) -> str:
        width = max(len("child"), *map(len, self.children))
        lines = [f"{'child'.ljust(width)}  share  kept"]
        lines += [
            f"{name.ljust(width)}  {share:5.3f}  {'yes' if place in self.kept else 'no'}"
            for place, (name, share) in enumerate(zip(self.children, self.mean, strict=True))
        ]
        return "\n".join(lines)


def prune_fusion(
    model: Model,
    fuse: Fuse | str,
    keep: int,
    data: Sequence[Any],
    expression: Expression = None,
    into: str | None = None,
) -> Pruned:
    """Adds a fusion over the children that a fusion gives most of its attention to, with the same weights.

    What a child counts is its mean weight over all tokens of the data and all sites of the fusion; of two that
    count the same the first is kept. A fusion that scales counts by the size of its mean scales, and keeps those
    of the children that are left. The attention is shared out anew among these; training the new fusion for a
    little while gives back most of what was lost.

    Args:
        model: the model.
        fuse: the Fuse; or the name of one that stands in the expression, or whose children are the adapters in
            its name (`"a,b"`).
        keep: how many children to keep, from 1 to one less than there are.
        data: texts, pairs or lists of words, or batches as plans take them (mappings of tensors).
        expression: an expression in which the Fuse stands, to measure it there; by default the Fuse alone.
        into: the name of the new fusion; by default the kept children's names joined by `,`.

    Raises:
        ExpressionError: it is no Fuse with a name, or does not stand in the expression.
        ConfigError: `keep` is out of range.
        InputError: there is no data, or some of it does not fit.
        RegistryError: there is no such fusion, or the new one's name is taken.
        CompileError: the expression has no meaning.
    """
    around = as_expression(expression)
    block = _block(model, fuse, around)
    name = own_name(block) or ""
    count = len(block.children)
    if not isinstance(keep, int) or isinstance(keep, bool) or not 1 <= keep < count:
        raise ConfigError(
            f"keep={keep!r}, but of {count} children from 1 to {count - 1} can be kept",
            where=f"fusion '{name}'",
        )
    if around is None:
        around = block
    if block not in fuses(around):
        raise ExpressionError(f"{to_text(block)} does not stand in {to_text(around)}", hint="the expression it is in")
    rows = fusion_shares(model.plan(around), block, data)
    mean = tuple(statistics.fmean(abs(row.shares.get(place, 0.0)) for row in rows) for place in range(count))
    kept = tuple(sorted(sorted(range(count), key=lambda place: (-mean[place], place))[:keep]))
    left = Fuse(*(block.children[place] for place in kept), name=into)
    _register(model, name, left, kept)
    return Pruned(left, child_names(block), kept, tuple(rows), mean)


def _block(model: Model, fuse: Fuse | str, around: Expression) -> Fuse:
    """The Fuse that is meant: itself, the one of its name in an expression, or that of the adapters in its name."""
    block: Expression
    if isinstance(fuse, str) and fuse in model.fusions:
        block = next((each for each in fuses(around) if own_name(each) == fuse), None)
        if block is None:
            block = Fuse(*model.fusions[fuse].candidates)
            if own_name(block) != fuse:
                raise ExpressionError(
                    f"the name of the fusion '{fuse}' does not say what its children are", hint="the Fuse itself"
                )
    else:
        block = as_expression(fuse)
    if not isinstance(block, Fuse) or own_name(block) is None:
        raise ExpressionError(f"{fuse!r} is no Fuse with a name", got=str(fuse), legal=model.fusions.names)
    model.fusions.require(own_name(block) or "")
    return block


def _register(model: Model, name: str, left: Fuse, kept: tuple[int, ...]) -> None:
    """Keeps the weights of a fusion under the name of a Fuse of some of its children."""
    new = own_name(left)
    if new is None:
        raise RegistryError("the kept children have no names, and so the new fusion has none", hint="into='...'")
    model.fusions.require_free(new)
    held = model.fusions[name]
    tensors = held.tensors()
    if held.spec.by_place:
        tensors = {key: tensor[list(kept)] for key, tensor in tensors.items()}
    record = FusionRecord(new, held.config, leaves(left), tensors)
    model.register(model.fusions, new, fusion_from(model, record))
