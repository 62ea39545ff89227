"""Arithmetic on task vectors: what training changed, weight by weight.

Each function takes task vectors (tensors by name, the same names and shapes) and what each of them counts, by the
name of the weight.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

Task = Mapping[str, Tensor]
Counts = Callable[[str], Sequence[float]]


def linear(tasks: Sequence[Task], counts: Counts) -> dict[str, Tensor]:
    """Their weighted sum (task arithmetic, Ilharco et al., 2023, arXiv:2212.04089)."""
    return {name: _stacked(tasks, name, counts).sum(0) for name in tasks[0]}


def ties(tasks: Sequence[Task], counts: Counts, density: float, scale: float) -> dict[str, Tensor]:
    """Trim, elect sign, disjoint merge (TIES, Yadav et al., 2023, arXiv:2306.01708).

    Each task vector keeps the largest of its values; a value's sign is that of the weighted sum of what is left; the
    result is the weighted mean of those that have it.

    Args:
        tasks, counts: as said above.
        density: the share of its values, over all tensors, that a task vector keeps.
        scale: what the result is multiplied by.
    """
    trimmed = [trim(task, density) for task in tasks]
    merged = {}
    for name in tasks[0]:
        weighted = _stacked(trimmed, name, counts)
        agrees = (weighted.sign() == weighted.sum(0).sign()) & (weighted != 0)
        sizes = torch.tensor(counts(name), dtype=weighted.dtype, device=weighted.device).abs()
        total = torch.einsum("n...,n->...", agrees.to(weighted.dtype), sizes)
        mean = (weighted * agrees).sum(0) / torch.where(total > 0, total, torch.ones_like(total))
        merged[name] = scale * mean
    return merged


def trim(task: Task, density: float) -> Task:
    """A task vector of which all but its largest values are zero; those as large as the last one kept are kept."""
    sizes = torch.cat([tensor.flatten().abs() for tensor in task.values()])
    kept = math.ceil(density * len(sizes))
    if kept >= len(sizes):
        return task
    least = sizes.topk(kept).values.min()
    return {name: torch.where(tensor.abs() >= least, tensor, 0) for name, tensor in task.items()}


def dare(tasks: Sequence[Task], density: float, seed: int) -> list[Task]:
    """Task vectors of which each value is kept with a probability, and then divided by it.

    After DARE (Yu et al., 2023, arXiv:2311.03099). The same seed drops the same values on every machine.
    """
    generator = torch.Generator().manual_seed(seed)
    dropped: list[Task] = []
    for task in tasks:
        kept = {name: torch.rand(task[name].shape, generator=generator) < density for name in sorted(task)}
        dropped.append({name: tensor * kept[name].to(tensor.device) / density for name, tensor in task.items()})
    return dropped


def _stacked(tasks: Sequence[Task], name: str, counts: Counts) -> Tensor:
    """A weight of all task vectors times what each counts, [tasks, ...]."""
    return torch.stack([count * task[name] for task, count in zip(tasks, counts(name), strict=True)])
