"""Calls in which prompts make rows longer: the embeddings first, then the layers on what came of them.

What backbones make of their inputs (masks, positions) has to fit the longer rows. So the backbone is run from
its first layer on, as it is run above a trunk: with states in the place of its embeddings.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from compose.backbones.resolve import Anatomy
from compose.errors import BackboneError, InputError, Problem
from compose.methods.part import Context
from compose.methods.prompt_tuning.module import PromptPart
from compose.methods.tokens import Tokens
from compose.plan import Plan
from compose.runtime.execute import run_values
from compose.runtime.frame import Frame, entered
from compose.runtime.lengths import Longer, Value, joined
from compose.runtime.trunk import TrunkStates, replaced, upper, without_embedded

MASK, POSITIONS = "attention_mask", "position_ids"

RAISED = {"distilbert": 1.0}
"""What AdapterHub adds to the scores of a prompt's tokens: its masks of this architecture are numbers to be added."""


class _Kept(nn.Module):
    """Stands where the layers are, and keeps what the first of them is given."""

    def __init__(self) -> None:
        super().__init__()
        self.states: Tensor | None = None

    def forward(self, states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        self.states = states
        return states


def lengthen(
    backbone: nn.Module, anatomy: Anatomy, frame: Frame, given: Mapping[str, Any]
) -> tuple[nn.Module, dict[str, Any]]:
    """Lets prompts act on what the embeddings make of a call's inputs.

    Args:
        backbone: the backbone.
        anatomy: of it.
        frame: the call; what the layers begin with is kept there.
        given: the backbone's inputs.

    Returns:
        A view of the backbone that goes on from there, and its inputs.

    Raises:
        InputError: if an input does not say which tokens are padding, or comes from an earlier call.
        BackboneError: if rows differ in length and the backbone takes no mask.
    """
    _check(given, frame.plan.backbone.encoder_decoder)
    with entered(frame):
        states = _embedded(backbone, anatomy, given)
        longer = frame.longer = _longer(frame, states, given)
    following = without_embedded({name: value for name, value in given.items() if name not in (MASK, "input_ids")})
    if given.get(MASK) is not None or _is_ragged(frame.plan):
        if MASK not in inspect.signature(backbone.forward).parameters:
            raise BackboneError(
                f"{type(backbone).__name__} takes no attention mask, so that prompts of one batch must be equally long",
                hint="prompts of one prompt_length, or a plan for each",
            )
        seeing = longer.tokens.seeing is not None
        raised = RAISED.get(frame.plan.backbone.architecture, 0.0)
        following[MASK] = longer.tokens.attended(longer.states.dtype, raised) if seeing else longer.tokens.mask
    if longer.tokens.positions is not None:
        following[POSITIONS] = longer.tokens.positions
    if "pixel_values" not in given:
        following["inputs_embeds"] = longer.states
    if not anatomy.table.entry:
        return backbone, following
    return upper(backbone, anatomy, TrunkStates(0, (longer.states,))), following


def _is_ragged(plan: Plan) -> bool:
    """Whether rows of one batch differ in length."""
    return plan.added_tokens != plan.added_tokens_least


def _check(given: Mapping[str, Any], encoder_decoder: bool) -> None:
    problems = [
        Problem(f"{name} is given, but prompts act on the embeddings of a whole row", hint="leave it out")
        for name in ("past_key_values", "encoder_outputs")
        if given.get(name) is not None
    ]
    mask = given.get(MASK)
    if mask is not None and mask.dim() != 2:
        what = f"attention_mask is {list(mask.shape)}, but prompts need one of [rows, tokens]"
        problems.append(Problem(what, why="what the prompts' tokens may see is not in it"))
    if not encoder_decoder and given.get("encoder_attention_mask") is not None:
        problems.append(Problem("encoder_attention_mask is given, which prompts have no meaning for"))
    if problems:
        raise InputError(problems)


def _embedded(backbone: Any, anatomy: Anatomy, given: Mapping[str, Any]) -> Tensor:
    """What the first layer would be given, [rows, tokens, width]."""
    if not anatomy.table.entry:  # a backbone whose embeddings are nothing but those of words
        words: Tensor | None = given.get("inputs_embeds")
        return backbone.get_input_embeddings()(given["input_ids"]) if words is None else words
    kept = _Kept()
    changes = {anatomy.table.stacks[0].layers: lambda _: nn.ModuleList([kept])}
    if getattr(backbone, "pooler", None) is not None:
        changes["pooler"] = lambda _: None  # type: ignore[assignment,return-value]
    replaced(backbone, changes)(**{**given, "output_hidden_states": False, "output_attentions": False})
    assert kept.states is not None
    return kept.states


def _longer(frame: Frame, states: Tensor, given: Mapping[str, Any]) -> Longer:
    bound = frame.programs[frame.plan.backbone.embed_key]
    mask = given.get(MASK)
    padded = mask is not None
    if mask is None:
        mask = torch.ones(states.shape[:2], dtype=torch.long, device=states.device)
    steps = (operation for step in bound.steps for operation in step.operations)
    parts = [operation.part for operation in steps if isinstance(operation.part, PromptPart)]
    seeing = padded and any(part.config.adapterhub_mask for part in parts)
    context = Context(tokens=Tokens.of(mask, given.get(POSITIONS), seeing))
    value = Value(states.to(bound.dtype), context)
    longer = joined(run_values(frame, bound, [value] * bound.program.classes))
    return longer._replace(states=longer.states.to(states.dtype))
