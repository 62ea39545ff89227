"""What an expression needs to have a meaning over a backbone and its adapters; all problems at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from compose.dsl import Block, Drop, Expression, Fuse, Path, Stack, leaves, locate, own_name, walk
from compose.dsl.check import check_nesting
from compose.errors import CompileError, Problem
from compose.graph.core import core_problems, counting_problems
from compose.graph.lengths import length_problems
from compose.graph.sites import Vocabulary, dropped_layers, is_dropped
from compose.graph.where import marked


def check(expression: Expression, vocabulary: Vocabulary) -> None:
    """Checks names, fusions and layers.

    Raises:
        CompileError: with every problem found, each marked in the text of the expression.
    """
    problems = [
        _placed(problem, expression, path) for path, node in walk(expression) for problem in _problems(node, vocabulary)
    ]
    if not problems:
        problems = [
            replace(problem, **marked(expression, node))
            for find in (length_problems, counting_problems)
            for node, problem in find(expression, vocabulary)
        ]
    if problems:
        raise CompileError(problems)


def _placed(problem: Problem, expression: Expression, path: Path) -> Problem:
    """The problem of the node that a path leads to, marked in the text of the whole."""
    text, span = locate(expression, path)
    return replace(problem, text=text, span=span)


def _problems(node: Expression, vocabulary: Vocabulary) -> Iterator[Problem]:
    """What is wrong with a node itself, wherever it stands."""
    if isinstance(node, str) and node not in vocabulary.adapters:
        yield _unknown_adapter(node, vocabulary)
    elif isinstance(node, Drop):
        yield from _drop_problems(node, len(vocabulary.backbone.layers))
    elif isinstance(node, Fuse) and all(name in vocabulary.adapters for name in leaves(node)):
        yield from _fuse_problems(node, vocabulary)
    elif isinstance(node, Stack) and all(name in vocabulary.adapters for name in leaves(node)):
        yield from _stack_problems(node, vocabulary)
    elif isinstance(node, Block) and all(name in vocabulary.adapters for name in leaves(node)):
        yield from core_problems(node, vocabulary)


def _unknown_adapter(name: str, vocabulary: Vocabulary) -> Problem:
    what, names = f"there is no adapter '{name}'", tuple(vocabulary.adapters)
    if not names:
        return Problem(what, why="this model has no adapters yet", hint=f"model.add_adapter({name!r}, 'seq_bn')")
    return Problem(what, got=name, legal=names)


def _drop_problems(drop: Drop, count: int) -> Iterator[Problem]:
    asked = drop.first[1] if isinstance(drop.first, tuple) else drop.first
    for key, value in (("first", asked), ("last", drop.last)):
        if value is not None and value > count:
            yield Problem(f"{key}={value} drops more layers than there are", why=f"the backbone has {count} layers")
    beyond = [layer for layer in drop.layers or () if layer >= count]
    if beyond:
        listed = ", ".join(map(str, beyond))
        yield Problem(f"no layer {listed}", why=f"the backbone has {count} layers, 0 to {count - 1}")


def check_fusible(fuse: Fuse, vocabulary: Vocabulary) -> None:
    """Checks a Fuse that is to get weights: it has a meaning, each child has an increment, and one acts somewhere.

    Raises:
        CompileError: with every problem found.
    """
    check_nesting(fuse)
    below = [
        _placed(problem, fuse, path)
        for path, node in walk(fuse)
        if not isinstance(node, Fuse)  # those inside may get their weights later
        for problem in _problems(node, vocabulary)
    ]
    problems = [*below, *_unfusible(fuse, vocabulary)]
    if not problems and not fusion_sites(fuse, vocabulary):
        nothing = Problem("no child of this Fuse acts anywhere, so it has nothing to weigh")
        problems.append(_placed(nothing, fuse, ()))
    if problems:
        raise CompileError(problems)


def _unfusible(fuse: Fuse, vocabulary: Vocabulary) -> Iterator[Problem]:
    for name in dict.fromkeys(leaves(fuse)):
        spec = vocabulary.adapters[name]
        if spec.fusible and vocabulary.backbone.embed_key in spec.by_site:
            yield Problem(
                f"'{name}' has an invertible part, which cannot be fused",
                why="what it does to the embeddings is no increment that could be weighed",
                hint=f"Stack('{name}', Fuse(...))",
            )
        if not spec.fusible:
            yield Problem(
                f"'{name}' cannot be fused",
                why=f"{spec.method} has no increment that could be weighed",
                hint="Stack or Parallel",
            )


def _stack_problems(stack: Stack, vocabulary: Vocabulary) -> Iterator[Problem]:
    aggregating = [child for child in stack.children if _aggregates(child, vocabulary)]
    if len(aggregating) > 1:
        yield Problem(
            "two children of this Stack aggregate the layers",
            why="each reads the states of all layers: the later one would replace what the earlier one made",
            hint="Parallel or Average of them",
        )


def _aggregates(expression: Expression, vocabulary: Vocabulary) -> bool:
    """Whether anything in it acts on the states of all layers."""
    key = vocabulary.backbone.states_key
    if isinstance(expression, Drop) and is_dropped(expression, key, vocabulary.backbone):
        return False
    if isinstance(expression, Block):
        return any(_aggregates(child, vocabulary) for child in expression.children)
    return expression is not None and key in vocabulary.adapters[str(expression)].by_site


def _fuse_problems(fuse: Fuse, vocabulary: Vocabulary) -> Iterator[Problem]:
    yield from _unfusible(fuse, vocabulary)
    fusion = own_name(fuse)
    if fusion is None:
        yield Problem(
            "this Fuse has no name, so it has no weights",
            why="none of its children has a name",
            hint="give it one: Fuse(..., name='...')",
        )
        return
    if fusion not in vocabulary.fusions:
        yield Problem(
            f"there are no weights for the fusion '{fusion}'",
            why="" if vocabulary.fusions else "this model has no fusions yet",
            hint=f"model.add_fusion({fuse!r}), or model.load_fusion(folder)",
            got=fusion,
            legal=tuple(vocabulary.fusions),
        )
        return
    spec = vocabulary.fusions[fusion]
    if spec.by_place and spec.children != len(fuse.children):
        yield Problem(
            f"the fusion '{fusion}' scales {spec.children} children, but this Fuse has {len(fuse.children)}",
            why="each child has scales of its own, by its place",
            hint="add a fusion of another name for these children",
        )
    missing = sorted(fusion_sites(fuse, vocabulary) - spec.sites)
    if missing:
        layer, site = missing[0]
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        yield Problem(
            f"the fusion '{fusion}' has no weights at layer {layer}, site '{site}'{more}",
            why="one of its children acts there",
            hint="add a fusion of another name for these children",
        )


def fusion_sites(fuse: Fuse, vocabulary: Vocabulary) -> frozenset[tuple[int, str]]:
    """The sites at which a Fuse needs weights: those where any of its children acts."""
    return frozenset(_sites(fuse, vocabulary))


def _sites(expression: Expression, vocabulary: Vocabulary) -> set[tuple[int, str]]:
    if isinstance(expression, str):
        return set(vocabulary.adapters[expression].by_site)
    if not isinstance(expression, Block):
        return set()
    found = set().union(*(_sites(child, vocabulary) for child in expression.children))
    if isinstance(expression, Drop):
        gone = dropped_layers(expression, len(vocabulary.backbone.layers))
        found = {site for site in found if site[0] not in gone}
    return found
