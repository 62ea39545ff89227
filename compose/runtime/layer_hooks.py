"""What happens where a layer begins and ends: embeddings act, rows part, what is batch-shaped is repeated."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from compose.backbones.resolve import LayerModules
from compose.methods.part import Context
from compose.runtime.embedded import act_on_embedded
from compose.runtime.execute import run, whole
from compose.runtime.frame import running
from compose.runtime.handed import first, with_first
from compose.runtime.masks import row_tokens
from compose.runtime.repeat import repeat_arguments, repeat_decoder_inputs, take_classes
from compose.specs import LAYER


def decoder_input(module: nn.Module) -> Callable[..., Any]:
    """A pre-hook of a decoder: its inputs are repeated for the branches that parted in the encoder."""
    names = tuple(inspect.signature(module.forward).parameters)

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        frame = running.frame
        if frame is None or frame.plan.entry == (0,):
            return None
        return repeat_decoder_inputs(frame, names, args, kwargs)

    return hook


def layer_input(layer: LayerModules, embed_key: tuple[int, str]) -> Callable[..., Any]:
    """A pre-hook of a layer: embeddings act before the first, rows part, arguments are repeated for them."""
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


def layer_output(layer: LayerModules) -> Callable[..., Any]:
    """A hook on a layer: branches lie along the batch again, and what acts on its output does."""
    key = (layer.index, LAYER)

    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        frame = running.frame
        if frame is None:
            return None
        unfolds, acts = frame.plan.layers[layer.index].unfolds, key in frame.programs
        states = first(output).flatten(0, 1) if unfolds else first(output)
        if acts:
            context = Context(row_tokens=row_tokens(frame, layer, states))
            states = whole(run(frame, frame.programs[key], states, context))
        if frame.kept is not None:
            frame.kept[layer.index + 1] = states
        return with_first(output, states) if unfolds or acts else None

    return hook
