"""Labels on their way into a loss: any form to a tensor, checked before it is used; and the losses.

A label of -100, or not-a-number where labels are fractions, is not counted. A loss over no label at
all is 0, and nothing flows back from it, so that a batch may lack a task.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from compose.errors import InputError
from compose.heads.spec import IGNORED


def as_tensor(labels: object, encode: Callable[[object], object], where: str) -> Tensor:
    """Labels as a tensor: a tensor as it is, an array, or nested lists of numbers and names.

    Args:
        labels: what the caller gave.
        encode: turns a name into its id.
        where: whose labels, for the error.
    """
    if isinstance(labels, Tensor):
        return labels
    if isinstance(labels, Sequence):
        labels = _encoded(labels, encode)
    try:
        return torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError("the labels are no tensor and cannot be made one", where=where, why=str(error)) from None


def _encoded(labels: object, encode: Callable[[object], object]) -> object:
    if isinstance(labels, Sequence) and not isinstance(labels, str):
        return [_encoded(label, encode) for label in labels]
    return encode(labels) if isinstance(labels, str) or labels is None else labels


def check_shape(labels: Tensor, legal: Sequence[tuple[int, ...]], where: str) -> None:
    """Refuses labels of a shape that is not among `legal`."""
    if tuple(labels.shape) not in legal:
        shapes = " or ".join(str(list(shape)) for shape in legal)
        raise InputError(f"labels of shape {list(labels.shape)}, but {shapes} is needed", where=where)


def class_ids(labels: Tensor, count: int, names: tuple[str, ...], where: str) -> Tensor:
    """Labels that are ids of `count` classes, as int64.

    Raises:
        InputError: they are fractions, or out of range.
    """
    if labels.is_floating_point() or labels.is_complex():
        raise InputError(
            f"labels of type {labels.dtype}, but ids of {count} classes are needed",
            where=where,
            hint="labels.long(), or a head with problem='regression' or 'multi_label'",
        )
    labels = labels.long()
    if not torch.compiler.is_compiling():  # a compiled graph cannot look at values
        wrong = (labels != IGNORED) & ((labels < 0) | (labels >= count))
        if wrong.any():
            place = wrong.nonzero()[0].tolist()
            raise InputError(
                f"label {int(labels[tuple(place)])} at {place} is out of range",
                where=where,
                why=f"ids go from 0 to {count - 1}; {IGNORED} is not counted",
                legal=names,
            )
    return labels


def fractions(labels: Tensor, dtype: torch.dtype, where: str, high: float | None = None) -> Tensor:
    """Labels that are numbers, -100 where not counted turned to not-a-number.

    Args:
        labels: numbers of any type.
        dtype: that of the logits.
        where: whose labels, for the error.
        high: if given, they must lie between 0 and it.

    Raises:
        InputError: they are infinite, or out of range.
    """
    if labels.is_complex():
        raise InputError(f"labels of type {labels.dtype}, but numbers are needed", where=where)
    numbers = labels.to(dtype)
    if high is not None or not labels.is_floating_point():
        numbers = numbers.masked_fill(labels == IGNORED, torch.nan)
    if not torch.compiler.is_compiling():
        wrong = numbers.isinf()
        if high is not None:
            wrong = wrong | (numbers < 0) | (numbers > high)
        if wrong.any():
            place = wrong.nonzero()[0].tolist()
            legal = "finite numbers are legal" if high is None else f"0 to {high:g} is legal"
            raise InputError(f"label {labels[tuple(place)].item()} at {place} is out of range", where=where, why=legal)
    return numbers


def cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean cross entropy over the labels that count.

    Args:
        logits: `[..., classes]`.
        labels: `[...]`, ids.
        weights: `[classes]`, how much each class counts; None: 1.
    """
    flat, wide = labels.reshape(-1), _wide(logits).reshape(-1, logits.shape[-1])
    weights = None if weights is None else weights.to(wide.device, wide.dtype)
    total = F.cross_entropy(wide, flat, weights, ignore_index=IGNORED, reduction="sum")
    there = flat != IGNORED
    if weights is None:
        return total / there.sum().clamp(min=1)
    counted = weights[flat.clamp(min=0)].masked_fill(~there, 0).sum()
    return total / torch.where(counted > 0, counted, 1)


def binary_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean binary cross entropy over the labels that count.

    Args:
        logits: `[rows, labels]`.
        labels: `[rows, labels]`, 0 to 1, or not-a-number.
        weights: `[labels]`, how much each label's yes counts against its no; None: 1.
    """
    counts, wide = ~labels.isnan(), _wide(logits)
    weights = None if weights is None else weights.to(wide.device, wide.dtype)
    answers = _wide(labels.nan_to_num())
    each = F.binary_cross_entropy_with_logits(wide, answers, reduction="none", pos_weight=weights)
    return (each * counts).sum() / counts.sum().clamp(min=1)


def mean_squared_error(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean squared error over the labels that count; shapes are the same."""
    counts = ~labels.isnan()
    each = (_wide(logits) - _wide(labels.nan_to_num())) ** 2
    return (each * counts).sum() / counts.sum().clamp(min=1)


def _wide(values: Tensor) -> Tensor:
    """Sums of half-precision numbers lose too much."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
