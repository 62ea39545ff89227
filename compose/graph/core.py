"""How many virtual tokens an expression gives to rows at an attention's core, and what has no meaning there."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from compose.dsl import Average, Block, Drop, Expression, Split, Stack, leaves
from compose.errors import Problem
from compose.graph.sites import Vocabulary, is_dropped, weighed

_Key = tuple[int, str]


def virtual_tokens(expression: Expression, key: _Key, vocabulary: Vocabulary) -> frozenset[int]:
    """How many virtual tokens the rows may get at an attention; several numbers where rows differ."""
    if isinstance(expression, Drop) and is_dropped(expression, key, vocabulary.backbone):
        return frozenset({0})
    if isinstance(expression, Average):
        return virtual_tokens(_weighed(expression)[0], key, vocabulary) if _weighed(expression) else frozenset({0})
    if isinstance(expression, Block):
        found = [virtual_tokens(child, key, vocabulary) for child in expression.children]
        if isinstance(expression, Stack):
            return frozenset(sum(numbers) for numbers in product(*found))
        return frozenset().union(*found)
    part = vocabulary.adapters[expression].by_site.get(key) if isinstance(expression, str) else None
    return frozenset({0 if part is None else part.rank})


def core_problems(node: Expression, vocabulary: Vocabulary) -> Iterator[Problem]:
    """What an Average or a Split of prefixes lacks; all its adapters are known."""
    if not isinstance(node, Average | Split):
        return
    for key in _cores(node, vocabulary):
        children = _weighed(node) if isinstance(node, Average) else node.children
        numbers = [virtual_tokens(child, key, vocabulary) for child in children]
        given = frozenset().union(*numbers)
        if isinstance(node, Split) and given != {0}:
            yield Problem(
                "a prefix acts in this Split",
                why=f"its virtual tokens, at layer {key[0]}, site '{key[1]}', are seen by all tokens of a row",
                hint="BatchSplit or Route, which give it to whole rows, or Parallel",
            )
            return
        if isinstance(node, Average) and len(given) > 1:
            listed = " and ".join(map(str, sorted(given)))
            yield Problem(
                f"the children of this Average have {listed} virtual tokens at layer {key[0]}, site '{key[1]}'",
                why="the keys and values of prefixes are averaged token by token",
                hint="prefixes of one prefix_length at the same layers, or Stack, which joins them",
            )
            return


def _weighed(average: Average) -> list[Expression]:
    """The children that have a weight."""
    return [child for child, _ in weighed(average)]


def _cores(node: Expression, vocabulary: Vocabulary) -> list[_Key]:
    """The attentions at whose core any adapter of an expression acts."""
    keys = {key for name in leaves(node) for key in vocabulary.adapters[name].by_site}
    return sorted(key for key in keys if vocabulary.backbone.site(*key).kind == "core")


def counting_problems(expression: Expression, vocabulary: Vocabulary) -> Iterator[tuple[Expression, Problem]]:
    """Prefixes of which some move the tokens that they stand before and some do not: the block, and what is wrong."""
    found: dict[bool, str] = {}
    for name in leaves(expression):
        for key, part in vocabulary.adapters[name].by_site.items():
            if vocabulary.backbone.site(*key).kind == "core":
                found[part.moves_text] = name
    if len(found) > 1:
        yield (
            expression,
            Problem(
                f"the virtual tokens of '{found[True]}' are counted, those of '{found[False]}' are not",
                why=f"in '{vocabulary.backbone.architecture}' an attention has one way to count for all rows",
                hint="prefixes with the same `counted`",
            ),
        )
