"""The hooks through which plans act on a backbone, put in place and taken away by one object.

Hooks are installed once, at attachment, on every module where an adapter may act. Outside of a call of a
plan they do nothing. They are pure: gradient checkpointing may run them twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from compose.backbones.resolve import Anatomy, LinearModule, SubLayerModules
from compose.runtime.attention import core_input, core_output, cores_of, read_plainly, read_through
from compose.runtime.checkpointing import Checkpointing
from compose.runtime.frame import running
from compose.runtime.layer_hooks import decoder_input, layer_input, layer_output
from compose.runtime.merged import Merged
from compose.runtime.sublayer_hooks import (
    linear_output,
    norm_input,
    norm_output,
    normed_output,
    residual_input,
    value_output,
)

OWNER = "_compose_hooks"
"""The attribute of our functions among a module's hooks that tells whose they are."""

_KINDS = ("_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks_with_kwargs")
"""Where torch notes what else it knows of a hook."""


class Hooks:
    """All hooks of one model on its backbone; a context manager, or `install` and `remove`.

    Args:
        anatomy: where the backbone's sites are.
        trained: which of its weights asked for gradients before any model was attached.
    """

    def __init__(self, anatomy: Anatomy, trained: Mapping[str, bool] | None = None) -> None:
        self.anatomy = anatomy
        self.trained = dict(trained or {})
        self.checkpointing = Checkpointing([layer.layer for layer in anatomy.layers])
        self.merged = Merged()
        self._cores = {core.key: core for core in cores_of(anatomy)}
        self._handles: list[RemovableHandle] = []
        self.installed = False  # a plain flag: Dynamo, which reads it in every call, knows no handles

    def __enter__(self) -> Hooks:
        self.install()
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()

    def install(self) -> None:
        """Puts the hooks in place."""
        self.installed = True
        if self.anatomy.decoder:
            stack = self.anatomy.decoder
            self._before(stack.module, decoder_input(stack.module))
        for layer in self.anatomy.layers:
            self._before(layer.layer, layer_input(layer, self.anatomy.spec.embed_key))
            for sublayer in layer.sublayers:
                self._install_sublayer(layer.index, sublayer)
            self._after(layer.layer, layer_output(layer))
        for core in self._cores.values():
            self._before(core.module, core_input(core))
            self._after(core.module, core_output(core))
        read_through(self._cores, self)

    def remove(self) -> None:
        """Takes all hooks away; the backbone is as it was."""
        self.installed = False
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        read_plainly(self._cores, self)
        self.checkpointing.restore()

    def thaw(self, backbone: nn.Module) -> None:
        """Lets the weights ask for gradients as before, unless other models are still attached."""
        if not hooks_on(backbone):
            for name, parameter in backbone.named_parameters():
                parameter.requires_grad_(self.trained[name])

    def _install_sublayer(self, layer: int, sublayer: SubLayerModules) -> None:
        key = (layer, sublayer.name)
        self._before(sublayer.residual, residual_input(key, sublayer))
        by_module: dict[int, list[LinearModule]] = {}
        for linear in sublayer.linears:
            by_module.setdefault(id(linear.module), []).append(linear)
        for linears in by_module.values():
            self._after(linears[0].module, linear_output(layer, linears))
        self._after(sublayer.value, value_output(key, sublayer.norm))
        # of the hooks on one module that which was put in place last runs first: the closed value comes before
        self._after(sublayer.normed, normed_output((layer, f"{sublayer.name}.norm")))
        if sublayer.norm is not None:
            self._before(sublayer.norm, norm_input(key))
            self._after(sublayer.norm, norm_output(key))

    def _before(self, module: nn.Module, hook: Callable[..., Any]) -> None:
        self._handles.append(module.register_forward_pre_hook(self._own(hook), prepend=True, with_kwargs=True))

    def _after(self, module: nn.Module, hook: Callable[..., Any]) -> None:
        self._handles.append(module.register_forward_hook(self._own(hook), prepend=True))

    def _own(self, hook: Callable[..., Any]) -> Callable[..., Any]:
        """The hook for calls of this model only: another may be attached to the same backbone."""

        def run_hook(*call: Any) -> Any:
            frame = running.frame
            return None if frame is None or frame.owner is not self else hook(*call)

        setattr(run_hook, OWNER, self)
        return run_hook


def hooks_on(backbone: nn.Module) -> list[Hooks]:
    """The hooks of every model that is attached to a backbone."""
    found = [getattr(hook, OWNER, None) for module in backbone.modules() for hook in module._forward_hooks.values()]
    return list(dict.fromkeys(owner for owner in found if owner is not None))


def trained_before(backbone: nn.Module) -> dict[str, bool]:
    """Which weights ask for gradients, or did before other models, still attached, froze them."""
    others = hooks_on(backbone)
    return others[0].trained if others else {name: p.requires_grad for name, p in backbone.named_parameters()}


def strip(backbone: nn.Module) -> None:
    """Takes the hooks of all models from a copy of a backbone, which has them from its original."""
    for module in backbone.modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            for key in [key for key, hook in hooks.items() if hasattr(hook, OWNER)]:
                del hooks[key]
                for kind in _KINDS:
                    getattr(module, kind).pop(key, None)
