"""A model's state: what a checkpoint holds, and copies."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from compose.backbones.resolve import resolve
from compose.runtime.hooks import strip
from compose.runtime.merged import require_unmerged

if TYPE_CHECKING:
    from compose.runtime.model import Model


def frozen_names(backbone: nn.Module, prefix: str) -> set[str]:
    """The names of a backbone's weights and buffers that are not trained."""
    trained = {name for name, parameter in backbone.named_parameters() if parameter.requires_grad}
    return {prefix + name for name in nn.Module.state_dict(backbone) if name not in trained}


def without_frozen(state: Mapping[str, Any], backbone: nn.Module, prefix: str) -> dict[str, Any]:
    """A state without the backbone's frozen weights; of weights that adapters share each has a copy.

    Trainer's files hold no tensor twice.
    """
    frozen = frozen_names(backbone, prefix)
    kept: dict[str, Any] = {}
    seen: set[int] = set()
    for name, value in state.items():
        if name not in frozen:
            place = value.data_ptr() if isinstance(value, Tensor) and value.numel() else 0
            kept[name] = value.clone() if place in seen and not name.startswith(prefix + "backbone.") else value
            seen.update({place} - {0})
    return kept


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


def applied(model: Model, function: Callable[[Tensor], Tensor]) -> Model:
    """The model, its backbone moved or converted, and adapters with it, but these to the model's `adapter_dtype`."""
    model.backbone._apply(function)
    dtype = model.adapter_dtype

    def own(tensor: Tensor) -> Tensor:
        made = function(tensor)
        fits = made.dtype == dtype or not made.is_floating_point()
        return made if fits else tensor.to(made.device, dtype)

    for modules in (model.adapters, model.fusions, model.heads):
        modules._apply(own)
    model.version += 1
    return model


def copied(model: Model, memo: dict[int, Any]) -> Model:
    """A copy of a model with hooks of its own: those of the original know the original's modules."""
    require_unmerged([model.hooks], "a copy could not bring its own weights back")
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
