"""Which of a call's tokens are padding, for what acts on some tokens of a row only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from compose.backbones.resolve import LayerModules
from compose.errors import InputError
from compose.methods.row_tokens import RowTokens
from compose.plan import Plan
from compose.runtime.frame import Frame
from compose.runtime.repeat import take_classes
from compose.specs import LAYER

IDS = ("input_ids", "inputs_embeds")


def masks_of(plan: Plan, given: Mapping[str, Any]) -> dict[str, Tensor | None]:
    """For each stack the mask of a call's tokens, those of its key/value cache included; nothing if nobody reads it.

    Args:
        plan: what is run.
        given: the backbone's inputs.

    Raises:
        InputError: if a mask does not say which tokens are padding.
    """
    if all(site != LAYER for _, site in plan.programs):
        return {}
    two = plan.backbone.encoder_decoder
    prefixes = {layer.stack: "decoder_" if two and layer.stack == "decoder" else "" for layer in plan.backbone.layers}
    cached = "decoder_" if two else ""
    return {stack: _mask(given, prefix, prefix == cached) for stack, prefix in prefixes.items()}


def _mask(given: Mapping[str, Any], prefix: str, cached: bool) -> Tensor | None:
    name = f"{prefix}attention_mask"
    mask: Tensor | None = given.get(name)
    if mask is not None:
        if mask.dim() != 2:
            raise InputError(
                f"{name} is {list(mask.shape)}, but ReFT has to know which tokens of a row are there",
                hint=f"a {name} of [rows, tokens]",
            )
        return mask
    cache = given.get("past_key_values")
    before = cache.get_seq_length() if cached and cache is not None else 0
    ids = next((given[prefix + name] for name in IDS if prefix + name in given), None)
    if not before or ids is None:
        return None
    return torch.ones((ids.shape[0], before + ids.shape[1]), dtype=torch.bool, device=ids.device)


def row_tokens(frame: Frame, layer: LayerModules, states: Tensor) -> RowTokens:
    """Where in its row each token stands that comes out of a layer; made once a call for rows that are alike.

    Args:
        frame: the call.
        layer: the layer.
        states: [classes x rows, tokens, width], what it gives.

    Returns:
        Those of one class where all have the same tokens, else of all classes.
    """
    lengthened = frame.longer is not None and layer.stack == frame.plan.backbone.layers[0].stack
    starts = frame.plan.layers[layer.index].starts if lengthened else (0,)
    if len(set(starts)) == 1:
        starts = starts[:1]
    key = ("tokens", layer.stack, starts)
    if key not in frame.scratch:
        mask = frame.masks.get(layer.stack)
        if lengthened:
            assert frame.longer is not None
            mask = take_classes(frame.longer.tokens.mask, starts, frame.batch)
        elif mask is not None and mask.shape[0] != frame.batch:  # one row for all
            mask = mask.expand(frame.batch, -1)
        frame.scratch[key] = RowTokens.of(len(starts) * frame.batch, states.shape[1], states.device, mask)
    found: RowTokens = frame.scratch[key]
    return found
