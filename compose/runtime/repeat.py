"""Repeats what has one entry per row where branches part: states, masks, positions, encoder states."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from compose.backbones.resolve import LayerModules
from compose.errors import BackboneError
from compose.runtime.frame import Frame

DECODER_INPUTS = (
    "input_ids",
    "attention_mask",
    "inputs_embeds",
    "encoder_attention_mask",
    "position_ids",
)
"""What a decoder stack is given with one entry per row of the batch."""


def take_classes(tensor: Tensor, classes: tuple[int, ...], batch: int) -> Tensor:
    """[old classes x batch, ...] as [new classes x batch, ...]: each new class from the old one named."""
    old = tensor.unflatten(0, (-1, batch)) if batch else tensor.unflatten(0, (1, 0))
    if old.shape[0] == 1:
        return old.expand(len(classes), *old.shape[1:]).flatten(0, 1)
    return torch.cat([old[source] for source in classes])


def repeat_arguments(
    frame: Frame, layer: LayerModules, names: tuple[str, ...], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A layer's arguments with the batch-shaped ones repeated to its rows."""
    positional = list(args)
    for position, name in enumerate(names[: len(args)]):
        if name in layer.batch_arguments:
            positional[position] = _repeat(frame, layer, name, args[position])
    repeated = {
        name: _repeat(frame, layer, name, value) if name in layer.batch_arguments else value
        for name, value in kwargs.items()
    }
    return tuple(positional), repeated


def _repeat(frame: Frame, layer: LayerModules, name: str, value: Any) -> Any:
    """The value for the layer's rows; computed once per call for layers of the same rows."""
    if value is None:
        return None
    if isinstance(value, tuple):
        return tuple(_repeat(frame, layer, f"{name}.{index}", item) for index, item in enumerate(value))
    if not isinstance(value, Tensor):
        raise BackboneError(
            f"the argument '{name}' is a {type(value).__name__}, which branches cannot repeat",
            hint="load the backbone with attn_implementation='sdpa' or 'eager'",
        )
    repeats = frame.plan.layers[layer.index].repeats
    held = value.shape[0] // frame.batch if frame.batch else 1
    if held not in repeats or value.shape[0] != held * frame.batch:
        # One entry for all rows, or already as many as there are rows.
        return value
    key = (layer.stack, name, repeats[held])
    source, result = frame.repeated.get(key, (None, None))
    if source is not value:
        result = take_classes(value, repeats[held], frame.batch)
        frame.repeated[key] = (value, result)
    return result


def repeat_decoder_inputs(
    frame: Frame, names: tuple[str, ...], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A decoder's inputs for the classes in which its encoder ended, before masks are made."""
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    classes = frame.plan.entry
    for name in DECODER_INPUTS:
        if given.get(name) is not None:
            # A mask of the encoder's tokens may have been made for rows that had parted before its first layer.
            parted = frame.batch and given[name].shape[0] > frame.batch
            sources = frame.plan.memory if parted else (0,) * len(classes)
            given[name] = take_classes(given[name], sources, frame.batch)
    states = given.get("encoder_hidden_states")
    if states is not None and classes != tuple(range(states.shape[0] // max(frame.batch, 1))):
        given["encoder_hidden_states"] = take_classes(states, classes, frame.batch)
    return (), given
