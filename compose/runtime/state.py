"""A model's state: what a checkpoint holds, and copies."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from compose.backbones.resolve import resolve
from compose.runtime.hooks import strip

if TYPE_CHECKING:
    from compose.runtime.model import Model


def in_dtype(fn: Callable[[Tensor], Tensor], dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """A conversion of tensors whose results have a floating type of their own."""

    def convert(tensor: Tensor) -> Tensor:
        made = fn(tensor)
        fits = made.dtype == dtype or not made.is_floating_point()
        return made if fits else tensor.to(made.device, dtype)

    return convert


def frozen_names(backbone: nn.Module, prefix: str) -> set[str]:
    """The names of a backbone's weights and buffers that are not trained."""
    trained = {name for name, parameter in backbone.named_parameters() if parameter.requires_grad}
    return {prefix + name for name in nn.Module.state_dict(backbone) if name not in trained}


def without_frozen(state: Mapping[str, Any], backbone: nn.Module, prefix: str) -> dict[str, Any]:
    """A state without the backbone's frozen weights."""
    frozen = frozen_names(backbone, prefix)
    return {name: value for name, value in state.items() if name not in frozen}


def checked(result: Any, backbone: nn.Module, prefix: str, strict: bool) -> Any:
    """The result of loading a state, in which the backbone's frozen weights may be missing.

    Raises:
        RuntimeError: as torch does, if anything else is missing, or unexpected.
    """
    frozen = frozen_names(backbone, prefix)
    missing = [key for key in result.missing_keys if key not in frozen]
    if strict and (missing or result.unexpected_keys):
        raise RuntimeError(
            f"the state does not fit: missing {missing or 'nothing'}, "
            f"unexpected {list(result.unexpected_keys) or 'nothing'}"
        )
    result.missing_keys[:] = missing
    return result


def copied(model: Model, memo: dict[int, Any]) -> Model:
    """A copy of a model with hooks of its own: those of the original know the original's modules."""
    backbone = copy.deepcopy(model.backbone, memo)  # with the hooks, since calls may run on the original meanwhile
    strip(backbone)
    parts = {name: copy.deepcopy(getattr(model, name), memo) for name in ("adapters", "fusions", "heads")}
    twin = type(model)(backbone, resolve(backbone, model.hooks.anatomy.table), model.tokenizer, model.source)
    for name, part in parts.items():
        setattr(twin, name, part)
    for own, other in zip(twin.backbone.parameters(), model.backbone.parameters(), strict=True):
        own.requires_grad_(other.requires_grad)
    twin.train(model.training)
    twin.take_over(model)
    twin.version = model.version
    return twin
