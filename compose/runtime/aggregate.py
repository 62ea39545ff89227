"""After the layers: what acts on the states of all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from compose.errors import ConfigError, InputError, Problem
from compose.heads.head import Head
from compose.methods.part import Context
from compose.methods.states import LayerStates
from compose.plan import Plan
from compose.runtime.execute import run_values, whole
from compose.runtime.frame import Frame
from compose.runtime.lengths import Value
from compose.runtime.repeat import take_classes


def aggregate(states: Any, frame: Frame, mask: Tensor | None) -> None:
    """Puts what heads read in place of the backbone's last states.

    Args:
        states: the backbone's output; its pooled output is only repeated for the branches that part here.
        frame: the call; it has kept what each layer was given.
        mask: [rows, tokens], 0 where a token is padding; None: none is.

    Raises:
        InputError: if the mask does not say which tokens are padding.
    """
    plan, last = frame.plan, states.last_hidden_state
    assert frame.kept is not None and plan.aggregation is not None
    if frame.longer is not None:
        mask = frame.longer.tokens.mask
    given = [frame.kept[layer.index] for layer in plan.backbone.layers]
    states["last_hidden_state"] = over_layers(frame, [*given, last], mask)
    pooled = states.get("pooler_output")
    if pooled is not None and plan.aggregation.forks:
        states["pooler_output"] = take_classes(pooled, plan.aggregation.sources, frame.batch)


def over_layers(frame: Frame, layers: Sequence[Tensor], mask: Tensor | None) -> Tensor:
    """What acts on the states of all layers makes of them.

    Args:
        frame: the call.
        layers: what each layer was given, and what the backbone gives at its end (after its final LayerNorm,
            where it has one), each [classes x rows, tokens, width] with the classes that there are there.
        mask: [rows, tokens].

    Returns:
        [classes x rows, tokens, width], with the classes that heads read.

    Raises:
        InputError: if the mask does not say which tokens are padding.
    """
    plan, last = frame.plan, layers[-1]
    bound = frame.programs[plan.backbone.states_key]
    check_mask(mask, last)
    sources = [*plan.given, tuple(range(plan.classes))]
    values = []
    for end in range(plan.classes):
        of_class = [
            states.narrow(0, classes[end] * frame.batch, frame.batch)
            for states, classes in zip(layers, sources, strict=True)
        ]
        own = mask
        if frame.longer is not None and mask is not None:
            own = mask.narrow(0, plan.given[0][end] * frame.batch, frame.batch)
        context = Context(states=LayerStates(of_class, own, bound.dtype))
        values.append(Value(of_class[-1].to(bound.dtype), context))
    return whole(tuple(result.y for result in run_values(frame, bound, values))).to(last.dtype)


def check_mask(mask: Tensor | None, states: Tensor) -> None:
    """InputError: a mask that is none of [rows, tokens]."""
    if mask is not None and (mask.dim() != 2 or mask.shape[1] != states.shape[1]):
        raise InputError(
            f"an attention mask of the shape {list(mask.shape)}, but states of {states.shape[1]} tokens",
            why="layer aggregation takes means over all tokens of a row, so it has to know which are there",
            hint="a mask of [rows, tokens], and whole texts: no past_key_values",
        )


def check_heads(plan: Plan, heads: Sequence[Head]) -> None:
    """Checks that the heads of branches that aggregate layers read what aggregation gives.

    Raises:
        ConfigError: for every head that would read something else, or could see the tokens that it predicts.
    """
    program = plan.aggregation
    if program is None:
        return
    problems = []
    for output, head in zip(plan.outputs, heads, strict=True):
        branch = plan.branches[output.branch]
        if branch is None or program.results[branch] < program.classes:
            continue  # nothing aggregates there
        if getattr(head.config, "use_pooler", False):
            problems.append(
                Problem(
                    "it reads the backbone's pooled output, which layer aggregation does not change",
                    where=f"head '{head.name}'",
                    hint="use_pooler=False",
                )
            )
        if head.config.kind == "causal_lm":
            problems.append(
                Problem(
                    "it predicts the next token, but layer aggregation lets each token see all others",
                    where=f"head '{head.name}'",
                    why="the means over a row's tokens and the tailor block's attention know what comes next",
                    hint="a tagging or classification head",
                )
            )
    if problems:
        raise ConfigError(problems)
