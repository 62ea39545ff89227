"""What undoes a branch's invertible parts, for heads that turn states back into tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from compose.dsl import Average, BatchSplit, Block, Branch, Drop, Expression, Route, Split, to_text
from compose.errors import ConfigError, Problem
from compose.graph.sites import Selector, Vocabulary, is_dropped, pieces
from compose.heads.head import Head
from compose.methods.invertible.module import InvertiblePart
from compose.plan import Output

if TYPE_CHECKING:
    from compose.runtime.model import Model

Inverse = Callable[[Tensor], Tensor]
"""From states [rows, tokens, width] to states."""


def inverses_of(
    model: Model, branches: Sequence[Branch], outputs: Sequence[Output], heads: Sequence[Head]
) -> dict[Output, Inverse]:
    """For each output whose head asks for it what undoes the invertible parts of its branch, if it has any.

    MAD-X (Pfeiffer et al., 2020) puts it before the map to the vocabulary, which is tied to the embeddings.

    Args:
        model: the model.
        branches: of the plan's expression.
        outputs: those that are asked for.
        heads: the head of each.

    Raises:
        ConfigError: for every head that asks for it where nothing could undo what the branch does, or whose last
            map reads states of another width.
    """
    found: dict[Output, Inverse] = {}
    problems = []
    for output, head in zip(outputs, heads, strict=True):
        if not head.reads_inverse:
            continue
        expression = branches[output.branch].expression
        names = invertible_names(expression, output.rows, model.vocabulary)
        where = f"head '{head.name}'"
        if names is None:
            problems.append(
                Problem(
                    f"it needs what undoes the invertible parts of {to_text(expression)}, but nothing does",
                    where=where,
                    why="an average of invertible maps, and different ones for some tokens or rows, cannot be undone",
                    hint="a Stack of invertible adapters, or a Parallel or Route with a head for each",
                )
            )
        elif names and head.inner_width != model.spec.hidden_size:
            width = model.spec.hidden_size
            what = f"its last map reads states of width {head.inner_width}, invertible parts are undone at {width}"
            problems.append(Problem(what, where=where, hint=f"embedding_size={width}"))
        elif names:
            parts = [model.adapters[name].part(*model.spec.embed_key) for name in names]
            found[output] = _undoing(parts)
    if problems:
        raise ConfigError(problems)
    return found


def invertible_names(
    expression: Expression, rows: Sequence[Selector], vocabulary: Vocabulary
) -> tuple[str, ...] | None:
    """The adapters whose invertible parts act on some rows, in order; None if what acts cannot be undone."""
    if isinstance(expression, Drop) and is_dropped(expression, vocabulary.backbone.embed_key, vocabulary.backbone):
        return ()
    if not isinstance(expression, Block):
        return (expression,) if expression is not None and _is_invertible(expression, vocabulary) else ()
    children = [invertible_names(child, rows, vocabulary) for child in expression.children]
    if isinstance(expression, BatchSplit | Route):
        own = [child for (selector, _), child in zip(pieces(expression), children, strict=True) if selector in rows]
        # Rows that a Route sends to a task of another one meet none of its children.
        children = own or [*children, *([()] if isinstance(expression, Route) else [])]
    if isinstance(expression, BatchSplit | Route | Split | Average):
        return children[0] if len(set(children)) == 1 else None
    if None in children:
        return None
    return tuple(name for child in children for name in child or ())


def _is_invertible(name: str, vocabulary: Vocabulary) -> bool:
    part = vocabulary.adapters[name].by_site.get(vocabulary.backbone.embed_key)
    return part is not None and not part.added_tokens  # else it is a prompt


def _undoing(parts: Sequence[InvertiblePart]) -> Inverse:
    def undo(states: Tensor) -> Tensor:
        for part in reversed(parts):
            states = part.inverse(states)
        return states

    return undo
