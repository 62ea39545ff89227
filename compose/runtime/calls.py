"""Before and after the backbone: its inputs checked, its output given to heads or back to the caller."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

from compose.errors import InputError
from compose.heads.head import HeadInput
from compose.plan import Output
from compose.runtime.accepts import Accepts
from compose.runtime.frame import Frame, running
from compose.runtime.inverse import Inverse
from compose.runtime.longer import run_through
from compose.runtime.repeat import take_classes
from compose.specs import BackboneSpec

ROWS = ("input_ids", "inputs_embeds", "pixel_values", "encoder_outputs")

FLOATING = ("inputs_embeds", "decoder_inputs_embeds", "pixel_values")
"""Inputs that are numbers of the backbone's own type."""


def prepare_inputs(
    backbone: Any, spec: BackboneSpec, inputs: Mapping[str, Any], accepts: Accepts, own: tuple[str, ...] = ()
) -> tuple[dict[str, Any], int, torch.device]:
    """The backbone's inputs, the number of rows and their device.

    An encoder-decoder that is given no decoder inputs reads its own input, shifted right by one token, as
    AdapterHub has it.

    Args:
        backbone: the backbone.
        spec: its spec.
        inputs: what the caller gave.
        accepts: what the backbone takes.
        own: what the caller takes beside it, for messages.

    Raises:
        InputError: if there is nothing to run on, an input that there is not, an empty batch, one that is too
            long, or masks and ids that do not fit.
    """
    given = {name: value for name, value in inputs.items() if value is not None}
    name = next((name for name in ROWS if name in given), None)
    if name is None:
        raise InputError(
            "there is nothing to run on",
            got=next(iter(given), ""),
            legal=ROWS,
            hint="plan(**tokenizer(texts))",
        )
    accepts.check_names(given, own)
    tensor = given[name][0] if name == "encoder_outputs" else given[name]
    if not isinstance(tensor, Tensor):
        raise InputError(f"{name} is a {type(tensor).__name__}, but a tensor is needed", hint="return_tensors='pt'")
    if tensor.dim() < 2:
        hint = f"{name}[None] for a batch of one row" if tensor.dim() else ""
        raise InputError(f"{name} is {list(tensor.shape)}, but a batch has rows, [rows, tokens]", hint=hint)
    if tensor.shape[0] == 0:
        raise InputError("the batch is empty", why=f"its first dimension is 0: {tuple(tensor.shape)}")
    if tensor.shape[1] == 0:
        raise InputError("the batch has no tokens", why=f"its second dimension is 0: {tuple(tensor.shape)}")
    positions = accepts.positions
    if positions is not None and "position_ids" not in given and tensor.shape[1] > positions:
        raise InputError(f"{tensor.shape[1]} tokens, but the backbone takes {positions}", hint="truncation=True")
    accepts.check_values(backbone, given, tensor.shape[0])
    decoder = ("decoder_input_ids", "decoder_inputs_embeds")
    if spec.encoder_decoder and not any(name in given for name in decoder) and "input_ids" in given:
        given["decoder_input_ids"] = backbone._shift_right(given["input_ids"])
    for floating in FLOATING:
        if isinstance(given.get(floating), Tensor):  # where the backbone computes in bf16, callers need not know
            given[floating] = given[floating].to(next(backbone.parameters()).dtype)
    given.setdefault("return_dict", True)
    return given, tensor.shape[0], tensor.device


def run_backbone(backbone: Any, frame: Frame, given: Mapping[str, Any]) -> Any:
    """Runs a backbone within a call."""
    before = running.frame
    running.frame = frame
    try:
        return run_through(backbone, frame, given)
    finally:
        running.frame = before


def head_input(
    states: Any,
    given: Mapping[str, Any],
    frame: Frame,
    output: Output,
    rows: Sequence[int] | None,
    inverse: Inverse | None = None,
    embeddings: Tensor | None = None,
) -> HeadInput:
    """What a head reads of a call: its branch's rows, or those of them that are its own.

    The heads of an encoder-decoder read the decoder's states with the decoder's mask, and look for the end of
    the sequence in the encoder's tokens, which the decoder reads shifted.
    """
    branch = frame.plan.branches[output.branch]
    assert branch is not None, "outputs of pruned branches are not asked for"

    def own(tensor: Tensor | None, repeated: bool = False) -> Tensor | None:
        if tensor is None:
            return None
        if repeated:
            tensor = tensor.narrow(0, branch * frame.batch, frame.batch)
        return tensor if rows is None else tensor[torch.tensor(rows, dtype=torch.long, device=tensor.device)]

    last, first = states.last_hidden_state, None
    if frame.longer is not None and not frame.plan.backbone.encoder_decoder:
        start = frame.plan.starts[output.branch]
        assert start is not None, "outputs of pruned branches are not asked for"
        last = last.narrow(0, branch * frame.batch, frame.batch)
        first, last = own(last[:, 0]), own(frame.longer.own(last, start, frame.batch))
    else:
        last = own(last, True)
    assert last is not None
    mask = given.get("attention_mask")
    if frame.plan.backbone.encoder_decoder:
        same = mask is not None and mask.shape[1] == last.shape[1]
        mask = given.get("decoder_attention_mask", mask if same else None)
    return HeadInput(
        states=last,
        pooled=own(getattr(states, "pooler_output", None), True),
        attention_mask=own(mask),
        input_ids=own(given.get("input_ids")),
        inverse=inverse,
        first=first,
        embeddings=embeddings,
    )


def spread(tensor: Tensor, frame: Frame) -> Tensor:
    """Rows of classes as rows of branches, branch-major; branches that never parted get equal rows."""
    held = tensor.shape[0] // frame.batch
    branches = tuple(branch or 0 for branch in frame.plan.branches)
    if held == frame.plan.ends and branches == tuple(range(held)):
        return tensor
    return take_classes(tensor, branches, frame.batch)


def states_output(states: Any, frame: Frame) -> BaseModelOutput:
    """The backbone's output with one block of rows for each branch.

    Earlier hidden states and attentions keep the rows that they were computed on: those of the trunk once.
    """
    for name in ("last_hidden_state", "pooler_output"):
        tensor = states.get(name)
        if tensor is not None:
            states[name] = spread(tensor, frame)
    result: BaseModelOutput = states
    return result
