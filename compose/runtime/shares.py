"""Where fusions look: what each child counts, as a mean over the tokens of some data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from compose.dsl import Block, Expression, Fuse, fuses, own_name, to_text, walk
from compose.errors import InputError
from compose.graph.pieces import Cut
from compose.runtime.batches import batches, default_tokens
from compose.runtime.readers import reader_of

if TYPE_CHECKING:
    from compose.runtime.model import Model
    from compose.runtime.runnable import RunnablePlan


class SiteShares(NamedTuple):
    """What the children of a Fuse count at one site.

    Args:
        layer, site: the site.
        shares: by the child's place in the Fuse; children that are no candidates there are missing.
    """

    layer: int
    site: str
    shares: dict[int, float]


def fusion_shares(plan: RunnablePlan, fuse: Fuse, data: Sequence[Any]) -> list[SiteShares]:
    """The mean share of each child over all tokens that are not padding, site by site.

    Args:
        plan: a plan in which the Fuse stands.
        fuse: the Fuse.
        data: texts, pairs or lists of words, or batches as the plan takes them (mappings of tensors).

    Raises:
        InputError: there is no data, or some of it has no tokens for this Fuse.
    """
    sums: dict[tuple[int, str], Tensor] = {}
    counts: dict[tuple[int, str], int] = {}
    name = own_name(fuse) or ""
    if _is_cut_up(plan.expression, name):
        raise InputError(
            f"the fusion '{name}' does not see all rows and tokens of the batch",
            hint="measure it in an expression without Route, Split and BatchSplit in or around it",
        )
    for batch in _batches(plan.model, data):
        for layer, sites in plan.fusion_attention(**batch).get(name, {}).items():
            mask = _mask(plan.model, batch, layer)
            for site, weights in sites.items():
                present = torch.ones(weights.shape[:2], dtype=torch.bool) if mask is None else mask.bool().cpu()
                values = weights.double().cpu()
                # One that stands in several branches answers for the batch several times.
                total = values.reshape(-1, *present.shape, values.shape[-1]).mean(0)[present].sum(0)
                if not torch.isfinite(total).all():
                    what = f"the fusion '{name}' gives weights that are not finite at layer {layer}, {site}"
                    raise InputError(what, hint="data, and adapters, without NaN")
                sums[layer, site] = sums.get((layer, site), torch.zeros_like(total)) + total
                counts[layer, site] = counts.get((layer, site), 0) + int(present.sum())
    if not sums or not all(counts.values()):
        raise InputError(f"there is nothing to measure the fusion '{name}' on", hint="data with at least one token")
    return [
        SiteShares(
            layer,
            site,
            dict(
                zip(
                    candidates(plan.model, fuse, layer, site),
                    (total / counts[layer, site]).tolist(),
                    strict=True,
                )
            ),
        )
        for (layer, site), total in sorted(sums.items())
    ]


def candidates(model: Model, fuse: Fuse, layer: int, site: str) -> tuple[int, ...]:
    """The places of the children that a Fuse weighs at a site; those that have scales of their own are all there."""
    if model.fusions[own_name(fuse) or ""].spec.by_place:
        return tuple(range(len(fuse.children)))
    return tuple(place for place, child in enumerate(fuse.children) if _counts(model, child, layer, site))


def child_names(fuse: Fuse) -> tuple[str, ...]:
    """What to call the children: by their own names, else by their text, numbered where two are alike."""
    names: list[str] = []
    for child in fuse.children:
        name = own_name(child) or to_text(child)
        names.append(name if name not in names else f"{name} ({len(names)})")
    return tuple(names)


def _is_cut_up(expression: Expression, name: str) -> bool:
    """Whether a fusion runs on pieces of the batch: what cuts it up stands in one of its Fuses, or around it."""
    inside = (node for fuse in fuses(expression) if own_name(fuse) == name for _, node in walk(fuse))
    around = (node for _, node in walk(expression) if any(own_name(fuse) == name for fuse in fuses(node)))
    return any(isinstance(node, Cut) for node in (*inside, *around))


def _counts(model: Model, child: Expression, layer: int, site: str) -> bool:
    found = [node for _, node in walk(child) if not isinstance(node, Block)]
    return any(node is None or (layer, site) in model.adapters[str(node)].spec.by_site for node in found)


def _mask(model: Model, batch: Mapping[str, Any], layer: int) -> Tensor | None:
    """The mask of the tokens that a layer sees; None if all are there."""
    decodes = model.spec.encoder_decoder and model.spec.layers[layer].stack == "decoder"
    return batch.get("decoder_attention_mask" if decodes else "attention_mask")


def _batches(model: Model, data: Sequence[Any]) -> Iterator[Mapping[str, Any]]:
    if isinstance(data, Mapping):
        data = [data]
    elif not isinstance(data, str) and isinstance(data, Iterable):
        data = list(data)  # what can be read once is asked twice what it holds
    if isinstance(data, list) and all(isinstance(batch, Mapping) for batch in data):
        yield from data
        return
    reader = reader_of(model)
    inputs = reader.check(data)
    if reader.lacking() is not None:
        raise InputError("this model has no tokenizer", hint="batches of tensors, or compose.attach(model, tokenizer)")
    rows = [item.rows[0] for item in reader.encode(inputs, truncate=True)]
    tokens = default_tokens(model.device.type)
    for places in batches([len(row.words) for row in rows], batch_tokens=tokens):
        yield reader.batch([rows[place] for place in places])
