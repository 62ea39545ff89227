"""Several saved adapters made into one, with their heads where asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields

import torch
from torch import Tensor

from compose.errors import ConfigError, FileError, Problem
from compose.io.records import AdapterRecord, HeadRecord
from compose.methods.merging.merge import Merge
from compose.methods.merging.rules import Donor


def merge_records(records: Sequence[AdapterRecord], name: str, merge: Merge, with_heads: bool = False) -> AdapterRecord:
    """One adapter of several.

    Args:
        records: the adapters; all of the same backbone.
        name: that of the result, and of its head.
        merge: how.
        with_heads: merge the heads too: the weighted mean of their weights, whatever the kind.

    Raises:
        ConfigError: with every difference between adapters or heads that stands in the way.
        FileError: they were made for different backbones, or a head is missing.
    """
    _check_backbones(records)
    weights = merge.weights_of([Donor(each.name, each.config, each.tensors) for each in records])
    config, tensors = merge.of([Donor(each.name, each.config, each.tensors) for each in records])
    head = _merged_heads(records, name, weights) if with_heads else None
    saved = [each.fingerprint for each in records if each.fingerprint]
    meta = {"merged": {"kind": merge.kind, "adapters": [each.name for each in records], "weights": list(weights)}}
    return AdapterRecord(name, config, tensors, head, saved[0] if saved else None, meta, masks=_masks(records, tensors))


def _masks(records: Sequence[AdapterRecord], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Which elements are kept of weights that are sparse in all adapters: those that one of them keeps."""
    common = [name for name in records[0].masks if all(name in each.masks for each in records)]
    found = {name: torch.stack([each.masks[name] for each in records]).any(0) for name in common}
    return {name: mask for name, mask in found.items() if tensors[name].shape == mask.shape}


def _check_backbones(records: Sequence[AdapterRecord]) -> None:
    """Refuse adapters of different backbones, as far as they say which theirs is."""
    known = [(each.name, each.fingerprint) for each in records if each.fingerprint is not None]
    problems = [
        Problem(problem.what, where=f"'{first}' and '{name}'", why="they are of different backbones")
        for first, print_of_first in known[:1]
        for name, fingerprint in known[1:]
        for problem in print_of_first.mismatch(fingerprint)
    ]
    if problems:
        raise FileError(problems)


def _merged_heads(records: Sequence[AdapterRecord], name: str, weights: Sequence[float]) -> HeadRecord:
    """The weighted mean of the heads."""
    heads = [each.head for each in records if each.head is not None]
    if len(heads) < len(records):
        missing = [each.name for each in records if each.head is None]
        raise FileError([Problem("it has no head to merge", where=f"'{each}'") for each in missing])
    first, total = heads[0], sum(weights)
    problems = [
        Problem(
            f"{field.name} of the heads is {getattr(first.config, field.name)!r} in the one, "
            f"{getattr(head.config, field.name, None)!r} in the other",
            where=f"'{records[0].name}' and '{record.name}'",
        )
        for record, head in zip(records[1:], heads[1:], strict=True)
        for field in fields(first.config)
        if getattr(first.config, field.name) != getattr(head.config, field.name, None)
    ]
    problems += [
        Problem(f"one has a head of the kind {first.config.kind}, the other of {head.config.kind}", where=head.name)
        for head in heads[1:]
        if head.config.kind != first.config.kind
    ]
    if min(weights) < 0 or total == 0:
        problems.append(Problem("heads cannot be merged with negative weights", hint="merge without heads"))
    problems += [
        Problem("its weights have other shapes than those of the first", where=f"head '{head.name}'")
        for head in heads[1:]
        if {key: value.shape for key, value in head.tensors.items()}
        != {key: value.shape for key, value in first.tensors.items()}
    ]
    if problems:
        raise ConfigError(problems)
    tensors = {
        key: (
            torch.stack([w / total * head.tensors[key].double() for head, w in zip(heads, weights, strict=True)])
            .sum(0)
            .to(tensor.dtype)
        )
        for key, tensor in first.tensors.items()
    }
    return HeadRecord(name, first.config, tensors, first.fingerprint)
