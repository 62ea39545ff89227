"""Expressions that make rows longer: where that has no meaning."""

from __future__ import annotations

from collections.abc import Iterator

from compose.dsl import Average, BatchSplit, Block, Drop, Expression, Route, Split, walk
from compose.errors import Problem
from compose.graph.sites import Vocabulary, is_dropped

Layout = tuple[object, ...]
"""What is put among the tokens of a row, in order."""


def length_problems(expression: Expression, vocabulary: Vocabulary) -> Iterator[tuple[Expression, Problem]]:
    """What is wrong with the lengths of rows: the block, and the problem with it."""
    if not lengthens(expression, vocabulary):
        return
    for _, node in walk(expression):
        if isinstance(node, Split):
            yield (
                node,
                Problem(
                    "this Split cuts rows that a prompt makes longer",
                    why="its sizes count tokens, and a prompt changes their number for all rows of the batch",
                    hint="a Route or BatchSplit, or prefix tuning in the prompt's place",
                ),
            )
        elif isinstance(node, Average):
            yield from _average_problems(node, vocabulary)


def lengthens(expression: Expression, vocabulary: Vocabulary) -> bool:
    """Whether any prompt acts in it."""
    return layout_of(expression, vocabulary) != ()


def layout_of(expression: Expression, vocabulary: Vocabulary) -> Layout:
    """What an expression puts among a row's tokens; of equal layouts rows are equally long, in the same way."""
    if isinstance(expression, Drop) and is_dropped(expression, vocabulary.backbone.embed_key, vocabulary.backbone):
        return ()
    if isinstance(expression, Block):
        layouts = [layout_of(child, vocabulary) for child in expression.children]
        if isinstance(expression, Average):
            return next((layout for layout in layouts if layout), ())
        if isinstance(expression, Route | BatchSplit) and any(layouts):
            return ((type(expression).__name__, *layouts),)
        return tuple(item for layout in layouts for item in layout)
    part = None
    if expression is not None:
        part = vocabulary.adapters[expression].by_site.get(vocabulary.backbone.embed_key)
    return (part.shape,) if part is not None and part.added_tokens else ()


def _average_problems(average: Average, vocabulary: Vocabulary) -> Iterator[tuple[Expression, Problem]]:
    layouts = {layout_of(child, vocabulary) for child in average.children}
    if layouts == {()}:
        return
    if len(layouts) > 1:
        yield (
            average,
            Problem(
                "the children of this Average make rows longer in different ways",
                why="tokens are averaged one by one, so that all children need prompts of one length and place",
                hint="prompts of equal prompt_length and combine, or a Parallel",
            ),
        )
    elif abs(sum(average.factors) - 1) > 1e-9:
        yield (
            average,
            Problem(
                "the weights of this Average of prompts do not add up to 1",
                why="what is averaged has no value before the prompt to differ from",
                hint="normalize=True",
            ),
        )
