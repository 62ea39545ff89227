"""What happens in a sub-layer: at its linear maps, where its value leaves, and at the LayerNorm that closes it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from compose.backbones.resolve import LinearModule, SubLayerModules
from compose.methods.linear_map import LinearMap
from compose.methods.part import Context, required
from compose.runtime.bind import BoundProgram
from compose.runtime.execute import run, whole
from compose.runtime.frame import Frame, running
from compose.runtime.handed import first, flat, with_first


def residual_input(key: tuple[int, str], sublayer: SubLayerModules) -> Callable[..., Any]:
    """A pre-hook of the module that is given the residual input, which it keeps."""
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


def value_output(key: tuple[int, str], norm: nn.Module | None) -> Callable[..., Any]:
    """A hook on the module that gives a sub-layer's value: the site's program runs."""

    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        frame = running.frame
        if frame is None or key not in frame.programs:
            return None
        bound = frame.programs[key]
        y, shape = flat(first(output))
        residual, _ = flat(frame.scratch.pop(("residual", key)))
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
    residuals = required(context.residual, "residual").chunk(program.classes)
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
        residuals = required(context.residual, "residual").chunk(program.classes)
        values = results.chunk(len(program.results)) if isinstance(results, Tensor) else results
        results = tuple(
            value - residuals[source] if closing == "adapter" else value
            for value, source, closing in zip(values, program.sources, program.closings, strict=True)
        )
    joined = whole(results)
    if program.forks:
        return joined.unflatten(0, (len(program.results), -1))
    return joined.reshape(shape) if len(shape) == 4 else joined


def norm_input(key: tuple[int, str]) -> Callable[..., Any]:
    """A pre-hook of the LayerNorm that closes a site: it reads our sum where rows parted or closed themselves."""

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        frame = running.frame
        if frame is None or ("sum", key) not in frame.scratch:
            return None
        return (frame.scratch.pop(("sum", key)),), {}

    return hook


def norm_output(key: tuple[int, str]) -> Callable[..., Any]:
    """A hook on that LayerNorm: what adapters closed themselves takes the place of what it gave."""

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


def normed_output(key: tuple[int, str]) -> Callable[..., Any]:
    """A hook on a LayerNorm: the program of the site of what it gives runs."""

    def hook(module: nn.Module, args: Any, output: Tensor) -> Any:
        frame = running.frame
        if frame is None or key not in frame.programs:
            return None
        y, shape = flat(output)
        result = whole(run(frame, frame.programs[key], y, Context()))
        return result.reshape(shape) if len(shape) == 4 else result

    return hook


def linear_output(layer: int, linears: list[LinearModule]) -> Callable[..., Any]:
    """A hook on a linear map, a fused one too: the programs of its sites run."""
    keys = [(layer, linear.site) for linear in linears]
    maps = [LinearMap(linear) for linear in linears]

    def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Any:
        frame = running.frame
        if frame is None or not any(key in frame.programs for key in keys):
            return None
        given, _ = flat(args[0])
        y, shape = flat(output)
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
