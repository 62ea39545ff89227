"""Gradient checkpointing: a recomputation re-enters its own call's plan.

It runs during backward, after other plans have run and, on CUDA always, on another thread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from compose.runtime.frame import Frame, entered, running

ATTRIBUTE = "_gradient_checkpointing_func"
HOOKS = "_require_grads_hooks"
"""Where transformers keeps the hooks that make embeddings ask for gradients."""


def is_reentrant(backbone: nn.Module) -> bool:
    """Whether the embeddings' output asks for gradients, by a hook of transformers.

    Reentrant checkpoints hand gradients on only through inputs that ask for them, so it does while they are on.
    """
    return bool(getattr(backbone, HOOKS, None))


def as_embedded(backbone: nn.Module, states: Tensor) -> Tensor:
    """States that stand in for the embeddings' output, asking for gradients where that would.

    What enters above the embeddings passes their hook by.

    Args:
        backbone: the backbone.
        states: what its first layer that runs is given.
    """
    asks = torch.is_grad_enabled() and not states.requires_grad and is_reentrant(backbone)
    return states.detach().requires_grad_() if asks else states


class _Reentering:
    """A layer's checkpoint function, with the running call's plan kept for the recomputation."""

    def __init__(self, checkpoint: Callable[..., Any], layer: int) -> None:
        self.checkpoint = checkpoint
        self.layer = layer

    def __call__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        frame = running.frame
        if frame is None:
            return self.checkpoint(function, *args, **kwargs)
        if frame.kept is not None and args:
            # Older versions of transformers run a layer's hooks inside the checkpoint, where nothing can be kept.
            frame.kept.setdefault(self.layer, args[0])
        return self.checkpoint(_in_frame(function, frame), *args, **kwargs)


def _in_frame(function: Callable[..., Any], frame: Frame) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        with entered(frame.again()):
            return function(*args, **kwargs)

    return run


class Checkpointing:
    """Sees to it that the layers' checkpoint functions re-enter plans."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        self.layers = layers
        self._asks_for_gradients = False

    def enable(self, backbone: Any, arguments: Mapping[str, Any] | None, options: Mapping[str, Any]) -> None:
        """Switches checkpointing on, under the name that this version of transformers has for it."""
        reentrant = (arguments or {}).get("use_reentrant", False)
        self._take_input_gradients_back(backbone)
        enable = getattr(backbone, "activation_checkpointing_enable", None) or backbone.gradient_checkpointing_enable
        enable(dict(arguments) if arguments is not None else None, **options)
        # Reentrant checkpoints hand gradients on only through inputs that ask for them. Transformers makes texts
        # ask for them in any case; without need this would keep activations that nothing is trained by.
        self._asks_for_gradients = True
        if not reentrant:
            self._take_input_gradients_back(backbone)
        elif not is_reentrant(backbone):
            backbone.enable_input_require_grads()

    def disable(self, backbone: Any) -> None:
        """Switches checkpointing off, if it is on."""
        if any(getattr(module, "gradient_checkpointing", False) for module in backbone.modules()):
            disable = getattr(backbone, "activation_checkpointing_disable", None)
            (disable or backbone.gradient_checkpointing_disable)()
        self._take_input_gradients_back(backbone)

    def _take_input_gradients_back(self, backbone: Any) -> None:
        if self._asks_for_gradients:
            backbone.disable_input_require_grads()
            self._asks_for_gradients = False

    def prepare(self) -> None:
        """Wraps the checkpoint functions that transformers set since the last call."""
        for index, layer in enumerate(self.layers):
            checkpoint = vars(layer).get(ATTRIBUTE)
            if checkpoint is not None and not isinstance(checkpoint, _Reentering):
                setattr(layer, ATTRIBUTE, _Reentering(checkpoint, index))

    def restore(self) -> None:
        """Gives the layers back their own."""
        for layer in self.layers:
            checkpoint = vars(layer).get(ATTRIBUTE)
            if isinstance(checkpoint, _Reentering):
                setattr(layer, ATTRIBUTE, checkpoint.checkpoint)
