"""How many layers a recipe speaks of, so that a made backbone has them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from compose.dsl import Drop, as_expression
from compose.dsl.tree import walk
from compose.errors import ComposeError
from compose.recipes.schema import Recipe

LEAST = 3


def layers_asked(recipe: Recipe) -> int:
    """One more than the layers that expressions drop, that adapters leave out and that stages train."""
    curve = recipe.evaluate.drop_curve
    texts = [*(stage.expression for stage in recipe.train), *recipe.evaluate.texts()]
    found = [LEAST, *(curve.first if curve else ()), *(stage.last for stage in recipe.train)]
    for text in [*texts, *([recipe.predict.expression] if recipe.predict else [])]:
        found += _dropped(text)
    for adapter in recipe.adapters.values():
        found += _left_out(adapter.options)
    return max(found) + 1


def _dropped(text: str) -> Iterator[int]:
    try:
        expression = as_expression(text)
    except ComposeError:  # which is told of when it is checked
        return
    for _, block in walk(expression):
        if isinstance(block, Drop):
            yield max(block.first) if isinstance(block.first, tuple) else block.first or 0
            yield from (block.last or 0, *(layer + 1 for layer in block.layers or ()))


def _left_out(options: Any) -> Iterator[int]:
    """The layers in `leave_out` and in mappings by layer, those of nested methods too."""
    if isinstance(options, Mapping):
        for key, value in options.items():
            layers = value if key == "leave_out" and isinstance(value, list | tuple) else ()
            yield from (layer + 1 for layer in layers if isinstance(layer, int))
            if str(key).split(".")[0].isdecimal():
                yield int(str(key).split(".")[0]) + 1
            yield from _left_out(value)
    elif isinstance(options, list | tuple):
        for value in options:
            yield from _left_out(value)
