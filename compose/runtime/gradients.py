"""The gradient of a loss over some batches, for an adapter's weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from compose.dsl import Expression, as_expression, leaves, to_text
from compose.errors import ExpressionError, InputError
from compose.methods.adapter import Adapter
from compose.runtime.merged import require_unmerged
from compose.runtime.predict import evaluation

if TYPE_CHECKING:
    from compose.runtime.model import Model

Data = Iterable[Mapping[str, Any]]
"""Batches: a plan's inputs, with `labels`."""

HINT = "data=[{**tokenizer(texts, return_tensors='pt'), 'labels': labels}, ...]"


def gradients_of(model: Model, adapter: Adapter, data: Data, expression: Expression) -> dict[str, Tensor]:
    """The gradient of the batches' losses, added up, by weight; the model is as before.

    Args:
        model: the model; dropout is off meanwhile.
        adapter: the adapter.
        data: the batches.
        expression: in which plan the loss is taken; by default the adapter alone, with the head of its name.

    Raises:
        InputError: there is no batch, or one is none, or has no labels.
        ExpressionError: the adapter does not stand in the expression.
        BackboneError: an adapter is merged into the backbone, and so takes no part in the plan.
    """
    require_unmerged([model.hooks], "no gradient would reach it")
    block = adapter.name if expression is None else as_expression(expression)
    if adapter.name not in leaves(block):
        raise ExpressionError(f"'{adapter.name}' does not stand in {to_text(block)}", hint="the expression it is in")
    weights, plan = adapter.weights(), model.plan(block)
    asked = {key: weight.requires_grad for key, weight in weights.items()}
    summed = {key: torch.zeros_like(weight) for key, weight in weights.items()}
    try:
        for weight in weights.values():
            weight.requires_grad_(True)
        with evaluation(model), torch.enable_grad():
            for batch in _batches(data):
                loss = plan(**batch).loss
                if loss is None:
                    raise InputError("a batch without labels gives no loss", hint=HINT)
                found = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
                for key, gradient in zip(weights, found, strict=True):
                    if gradient is not None:
                        summed[key] += gradient
    finally:
        for key, weight in weights.items():
            weight.requires_grad_(asked[key])
    return {key: gradient.detach() for key, gradient in summed.items()}


def _batches(data: object) -> Iterator[Mapping[str, Any]]:
    """The batches of some data, which may be a single one."""
    if isinstance(data, str) or not isinstance(data, Iterable):
        raise InputError(f"data is a {type(data).__name__}, but batches are needed", hint=HINT)
    number = -1
    for number, batch in enumerate([data] if isinstance(data, Mapping) else data):
        if not isinstance(batch, Mapping) or not all(isinstance(name, str) for name in batch):
            what = f"batch {number} is a {type(batch).__name__}, but a mapping of inputs by name is needed"
            raise InputError(what, hint=HINT)
        yield batch
    if number < 0:
        raise InputError("there is no batch in the data", hint=HINT)
