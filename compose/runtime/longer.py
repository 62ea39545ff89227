"""Calls in which prompts make rows longer: the embeddings first, then the layers on what came of them.

What backbones make of their inputs (masks, positions) has to fit the longer rows. So the backbone is run from
its first layer on, as it is run above a trunk: with states in the place of its embeddings.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from compose.backbones.resolve import Anatomy
from compose.errors import BackboneError, InputError, Problem
from compose.methods.part import Context
from compose.methods.prompt_tuning.module import PromptPart
from compose.methods.tokens import Tokens
from compose.plan import Plan, SiteProgram
from compose.runtime.execute import run_values
from compose.runtime.frame import Frame, running
from compose.runtime.lengths import Longer, Value, joined
from compose.runtime.positions import POSITIONS, embedding_of
from compose.runtime.texts import first_position, learned_positions
from compose.runtime.trunk import answering, replaced, without_embedded
from compose.specs import EMBED

MASK = "attention_mask"
ACTING = "prompts and counted prefixes"

RAISED = {"distilbert": 1.0}
"""What AdapterHub adds to the scores of a prompt's tokens: its masks of this architecture are numbers to be added."""


class Entrance:
    """Two views of a backbone that share its modules: its embeddings alone, and what comes after them.

    Made once for a plan, since compiled code can make no modules.

    Args:
        backbone: the backbone.
        anatomy: of it.

    Raises:
        BackboneError: if its table does not say how.
    """

    def __init__(self, backbone: nn.Module, anatomy: Anatomy) -> None:
        self.takes_mask = MASK in inspect.signature(backbone.forward).parameters
        self.first, self.limit = first_position(backbone), learned_positions(backbone)
        self.words_only = not anatomy.table.entry
        if self.words_only and not anatomy.table.words_only:
            raise BackboneError(
                f"prompts cannot be put among the embeddings of {type(backbone).__name__}",
                why="its table does not say how the layers are entered after the embeddings",
                hint="a BackboneTable with an entry, as {'embeddings': 'states'}",
            )
        self.embeddings, self.following = _embedding(backbone), backbone
        if not self.words_only:
            results = {"states": _states, "nothing": _nothing, "unchanged": _unchanged}
            answers = {path: partial(answering, result=results[entry]) for path, entry in anatomy.table.entry.items()}
            keeping: dict[str, Callable[[Any], Any]] = {anatomy.table.stacks[0].layers: _keeping}
            if getattr(backbone, "pooler", None) is not None:
                keeping["pooler"] = _none
            self.embeddings, self.following = replaced(backbone, keeping), replaced(backbone, answers)
        self._copies = [*_copies(self.embeddings, backbone), *_copies(self.following, backbone)]

    def refresh(self) -> None:
        """Takes the mode that the backbone is in by now: training, and whether layers are checkpointed."""
        for copied, original in self._copies:
            for mode in ("training", "gradient_checkpointing"):
                if getattr(copied, mode, None) != getattr(original, mode, None):
                    setattr(copied, mode, getattr(original, mode))


def _embedding(backbone: Any) -> nn.Module:
    found: nn.Module = backbone.get_input_embeddings()
    return found


def _states(*_: Any, **__: Any) -> Tensor:
    frame = running.frame
    assert frame is not None and frame.longer is not None
    return frame.longer.states


def _nothing(*_: Any, **__: Any) -> Tensor:
    return _states().new_zeros(())


def _unchanged(states: Tensor, *_: Any, **__: Any) -> Tensor:
    return states


class _Kept(nn.Module):
    """Stands where the layers are, and keeps what the first of them is given."""

    def forward(self, states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        frame = running.frame
        assert frame is not None
        frame.scratch[EMBED] = states
        return states


def _keeping(layers: Any) -> nn.Module:
    return nn.ModuleList([_Kept()])


def _none(module: Any) -> None:
    return None


def _copies(view: nn.Module, original: nn.Module) -> Iterator[tuple[nn.Module, nn.Module]]:
    """The modules of a view that are copies, each with its original."""
    if view is not original:
        yield view, original
        for name, child in view._modules.items():
            other = original._modules[name]
            if child is not None and other is not None and type(child) is type(other):
                yield from _copies(child, other)


def begins_apart(plan: Plan) -> bool:
    """Whether a plan's embeddings run before its layers are entered.

    Prompts make rows longer than masks and positions would be, and what moves a text's positions needs its
    embeddings again. Aggregation reads what was made of them, which gradient checkpoints may hide from it.
    """
    return plan.embedding is not None and (plan.aggregation is not None or _makes_again(plan.embedding))


def _makes_again(program: SiteProgram) -> bool:
    """Whether a prompt acts, or something that moves a text's positions."""
    operations = (operation for step in program.steps for operation in step.operations)
    return any(operation.changes_tokens for operation in operations)


def run_through(backbone: Any, frame: Frame, given: Mapping[str, Any]) -> Any:
    """Runs a backbone in its frame, which is the running one; prompts act on what its embeddings make of the inputs.

    Args:
        backbone: the backbone.
        frame: the call; what the layers begin with is kept there.
        given: the backbone's inputs.

    Returns:
        The backbone's output.

    Raises:
        InputError: if an input does not say which tokens are padding, or comes from an earlier call.
        BackboneError: if rows differ in length and the backbone takes no mask.
    """
    entrance = frame.entrance
    if entrance is None:
        return backbone(**given)
    _check(given, frame.plan.backbone.encoder_decoder)
    longer = frame.longer = _longer(entrance, frame, given)
    following = without_embedded({name: value for name, value in given.items() if name not in (MASK, "input_ids")})
    if given.get(MASK) is not None or _is_ragged(frame.plan):
        if not entrance.takes_mask:
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
    return entrance.following(**following)


def _is_ragged(plan: Plan) -> bool:
    """Whether rows of one batch differ in length."""
    least, most = plan.added_tokens
    return least != most


def _check(given: Mapping[str, Any], encoder_decoder: bool) -> None:
    problems = [
        Problem(f"{name} is given, but {ACTING} act on the embeddings of a whole row", hint="leave it out")
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


def _embedded(entrance: Entrance, frame: Frame, given: Mapping[str, Any]) -> Tensor:
    """What the first layer would be given, [rows, tokens, width]."""
    if entrance.words_only:
        words: Tensor | None = given.get("inputs_embeds")
        return entrance.embeddings(given["input_ids"]) if words is None else words
    entrance.embeddings(**{**given, "output_hidden_states": False, "output_attentions": False})
    states: Tensor = frame.scratch.pop(EMBED)
    return states


def _embedded_as(dtype: torch.dtype, entrance: Entrance, frame: Frame, given: Mapping[str, Any]) -> Tensor:
    """The same with vectors in the place of words as the backbone has words: an adapter's are of a type of its own."""
    words: Tensor | None = given.get("inputs_embeds")
    return _embedded(entrance, frame, given if words is None else {**given, "inputs_embeds": words.to(dtype)})


def _longer(entrance: Entrance, frame: Frame, given: Mapping[str, Any]) -> Longer:
    states = _embedded(entrance, frame, given)
    bound = frame.programs[frame.plan.backbone.embed_key]
    mask = given.get(MASK)
    padded = mask is not None
    if mask is None:
        mask = torch.ones(states.shape[:2], dtype=torch.long, device=states.device)
    steps = (operation for step in bound.steps for operation in step.operations)
    parts = [operation.part for operation in steps if isinstance(operation.part, PromptPart)]
    seeing = padded and any(part.config.adapterhub_mask for part in parts)
    tokens, start = Tokens.of(mask, given.get(POSITIONS), seeing), states.to(bound.dtype)
    if _makes_again(bound.program):
        run = partial(_embedded_as, states.dtype, entrance, frame)
        embedding = embedding_of(run, given, start, entrance.first, entrance.limit)
        context = Context(tokens=tokens, embedding=embedding)
        values = run_values(frame, bound, [Value(start, context)] * bound.program.classes)
    else:  # a Split may cut rows, whose tokens stay as they are
        found = run_values(frame, bound, [Value(start, Context())] * bound.program.classes)
        values = tuple(Value(each.y, Context(tokens=tokens)) for each in found)
    longer = joined(values)
    return longer._replace(states=longer.states.to(states.dtype))
