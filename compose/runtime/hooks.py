"""The hooks through which plans act on a backbone, put in place and taken away by one object.

Hooks are installed once, at attachment, on every module where an adapter may act. Outside of a call of a
plan they do nothing. They are pure: gradient checkpointing may run them twice.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from compose.backbones.resolve import Anatomy, LayerModules, LinearModule, SubLayerModules
from compose.methods.linear_map import LinearMap
from compose.methods.part import Context
from compose.runtime.attention import core_input, core_output, cores_of, read_plainly, read_through
from compose.runtime.bind import BoundProgram
from compose.runtime.checkpointing import Checkpointing
from compose.runtime.embedded import act_on_embedded
from compose.runtime.execute import run, whole
from compose.runtime.frame import Frame, running
from compose.runtime.masks import row_tokens
from compose.runtime.merged import Merged
from compose.runtime.repeat import repeat_arguments, repeat_decoder_inputs, take_classes
from compose.specs import LAYER

OWNER = "_compose_hooks"
"""The attribute of our functions among a module's hooks that tells whose they are."""

_KINDS = ("_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks_with_kwargs")
"""Where torch notes what else it knows of a hook."""


def first(output: Any) -> Tensor:
    """The tensor that a module hands on, alone or as the first of a tuple."""
    tensor: Tensor = output[0] if isinstance(output, tuple) else output
    return tensor


def with_first(output: Any, tensor: Tensor) -> Any:
    """The output with another first tensor, in the form in which it came."""
    return (tensor, *output[1:]) if isinstance(output, tuple) else tensor


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
            self._before(stack.module, _decoder_input(stack.module))
        for layer in self.anatomy.layers:
            self._before(layer.layer, _layer_input(layer, self.anatomy.spec.embed_key))
            for sublayer in layer.sublayers:
                self._install_sublayer(layer.index, sublayer)
            self._after(layer.layer, _layer_output(layer))
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
        self._before(sublayer.residual, _residual(key, sublayer))
        by_module: dict[int, list[LinearModule]] = {}
        for linear in sublayer.linears:
            by_module.setdefault(id(linear.module), []).append(linear)
        for linears in by_module.values():
            self._after(linears[0].module, _linear(layer, linears))
        self._after(sublayer.value, _value(key, sublayer.norm))
        # of the hooks on one module that which was put in place last runs first: the closed value comes before
        self._after(sublayer.normed, _normed((layer, f"{sublayer.name}.norm")))
        if sublayer.norm is not None:
            self._before(sublayer.norm, _norm_input(key))
            self._after(sublayer.norm, _norm_output(key))

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


def _decoder_input(module: nn.Module) -> Callable[..., Any]:
    names = tuple(inspect.signature(module.forward).parameters)

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        frame = running.frame
        if frame is None or frame.plan.entry == (0,):
            return None
        return repeat_decoder_inputs(frame, names, args, kwargs)

    return hook


def _layer_input(layer: LayerModules, embed_key: tuple[int, str]) -> Callable[..., Any]:
    names = tuple(inspect.signature(layer.layer.forward).parameters)

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        frame = running.frame
        if frame is None:
            return None
        rows = frame.plan.layers[layer.index]
        states = args[0] if args else kwargs[names[0]]
        embedded = frame.programs.get(embed_key) if layer.index == 0 and frame.longer is None else None
        if embedded is not None:
            states = act_on_embedded(frame, embedded, states)
        if frame.kept is not None:
            frame.kept[layer.index] = states
        if rows.gather is None and rows.classes == 1 and embedded is None:
            return None
        if rows.gather is not None:
            states = take_classes(states, rows.gather, frame.batch)
        if args:
            args = (states, *args[1:])
        else:
            kwargs = {**kwargs, names[0]: states}
        return repeat_arguments(frame, layer, names, args, kwargs)

    return hook


def _layer_output(layer: LayerModules) -> Callable[..., Any]:
    key = (layer.index, LAYER)

    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        frame = running.frame
        if frame is None:
            return None
        unfolds, acts = frame.plan.layers[layer.index].unfolds, key in frame.programs
        states = first(output).flatten(0, 1) if unfolds else first(output)
        if acts:
            context = Context(row_tokens=row_tokens(frame, layer.stack, states))
            states = whole(run(frame, frame.programs[key], states, context))
        if frame.kept is not None:
            frame.kept[layer.index + 1] = states
        return with_first(output, states) if unfolds or acts else None

    return hook


def _residual(key: tuple[int, str], sublayer: SubLayerModules) -> Callable[..., Any]:
    name = sublayer.residual_argument
    position = 0
    if name is not None:
        position = list(inspect.signature(sublayer.residual.forward).parameters).index(name)

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        frame = running.frame
        if frame is None or key not in frame.programs:
            return
        if len(args) > position:
            frame.scratch["residual", key] = args[position]
        else:
            frame.scratch["residual", key] = kwargs[name] if name else next(iter(kwargs.values()))

    return hook


def _value(key: tuple[int, str], norm: nn.Module | None) -> Callable[..., Any]:
    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        frame = running.frame
        if frame is None or key not in frame.programs:
            return None
        bound = frame.programs[key]
        y, shape = _flat(first(output))
        residual, _ = _flat(frame.scratch.pop(("residual", key)))
        context = Context(residual=residual, norm=None if norm is None else norm.forward, input=None)
        results = run(frame, bound, y, context)
        if norm is not None:
            return _hand_to_norm(frame, key, bound, results, context, output)
        return with_first(output, _before_addition(bound, results, context, y, shape))

    return hook


def _hand_to_norm(
    frame: Frame,
    key: tuple[int, str],
    bound: BoundProgram,
    results: tuple[Tensor, ...] | Tensor,
    context: Context,
    output: Any,
) -> Any:
    """Post-norm: the residual addition comes next. Where it would not do, the LayerNorm's input is ours."""
    program = bound.program
    if not program.forks and set(program.closings) == {"backbone"}:
        return with_first(output, whole(results))
    residuals = context.residual.chunk(program.classes)  # type: ignore[union-attr]
    values = results.chunk(len(program.results)) if isinstance(results, Tensor) else results
    frame.scratch["sum", key] = torch.cat(
        [value + residuals[source] for value, source in zip(values, program.sources, strict=True)]
    )
    if "adapter" in program.closings:
        frame.scratch["closed", key] = values
    return None


def _before_addition(
    bound: BoundProgram,
    results: tuple[Tensor, ...] | Tensor,
    context: Context,
    y: Tensor,
    shape: torch.Size,
) -> Tensor:
    """Pre-norm: what the residual addition will turn into the closed value, broadcasting where it forks."""
    program = bound.program
    if "adapter" in program.closings:
        residuals = context.residual.chunk(program.classes)  # type: ignore[union-attr]
        values = results.chunk(len(program.results)) if isinstance(results, Tensor) else results
        results = tuple(
            value - residuals[source] if closing == "adapter" else value
            for value, source, closing in zip(values, program.sources, program.closings, strict=True)
        )
    joined = whole(results)
    if program.forks:
        return joined.unflatten(0, (len(program.results), -1))
    return joined.reshape(shape) if len(shape) == 4 else joined


def _flat(tensor: Tensor) -> tuple[Tensor, torch.Size]:
    """[classes, batch, tokens, width], as it is after a fork inside a layer, as rows; and its shape."""
    return (tensor.flatten(0, 1) if tensor.dim() == 4 else tensor), tensor.shape


def _norm_input(key: tuple[int, str]) -> Callable[..., Any]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        frame = running.frame
        if frame is None or ("sum", key) not in frame.scratch:
            return None
        return (frame.scratch.pop(("sum", key)),), {}

    return hook


def _norm_output(key: tuple[int, str]) -> Callable[..., Any]:
    def hook(module: nn.Module, args: Any, output: Tensor) -> Any:
        frame = running.frame
        if frame is None or ("closed", key) not in frame.scratch:
            return None
        program = frame.programs[key].program
        values = frame.scratch.pop(("closed", key))
        closed = output.chunk(len(values))
        return torch.cat(
            [
                value if closing == "adapter" else normed
                for value, normed, closing in zip(values, closed, program.closings, strict=True)
            ]
        )

    return hook


def _normed(key: tuple[int, str]) -> Callable[..., Any]:
    def hook(module: nn.Module, args: Any, output: Tensor) -> Any:
        frame = running.frame
        if frame is None or key not in frame.programs:
            return None
        y, shape = _flat(output)
        result = whole(run(frame, frame.programs[key], y, Context()))
        return result.reshape(shape) if len(shape) == 4 else result

    return hook


def _linear(layer: int, linears: list[LinearModule]) -> Callable[..., Any]:
    keys = [(layer, linear.site) for linear in linears]
    maps = [LinearMap(linear) for linear in linears]

    def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Any:
        frame = running.frame
        if frame is None or not any(key in frame.programs for key in keys):
            return None
        given, _ = _flat(args[0])
        y, shape = _flat(output)
        fused = linears[0].fused
        pieces = list(y.chunk(fused[1], dim=-1)) if fused else [y]
        for key, map in zip(keys, maps, strict=True):
            if key in frame.programs:
                index = map.fused[0] if map.fused else 0
                context = Context(input=given, output=pieces[index], map=map)
                pieces[index] = whole(run(frame, frame.programs[key], pieces[index], context))
        result = torch.cat(pieces, dim=-1) if fused else pieces[0]
        return result.reshape(shape)

    return hook
