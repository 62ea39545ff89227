"""A small valid recipe, and what its errors say."""

from __future__ import annotations

import pytest

from compose.errors import RecipeError
from compose.recipes.loader import load_text
from compose.recipes.overrides import apply_overrides
from compose.recipes.schema import Recipe
from compose.recipes.validate import validate

SMALL = """\
recipe: 1
name: small
backbone: minilm
data:
  topic: {kind: bundled, name: messages, label: topic}
  entities: {kind: bundled, name: messages, entities: entities}
adapters:
  topic: {method: seq_bn, reduction_factor: 8}
  entities: {method: lora, r: 4}
heads:
  topic: {kind: classification, pooling: mean}
  entities: {kind: tagging}
fusions:
  topic: {expression: 'Fuse("topic", "entities")'}
train:
  - {expression: topic, epochs: 2, learning_rate: 5e-4}
evaluate:
  expressions: {all: 'Parallel("topic", "entities")'}
  drop_curve: {expression: topic, first: [0, 1]}
predict:
  expression: topic
  texts: [Where is it]
"""


def read(text: str, *overrides: str) -> Recipe:
    """The recipe of a text."""
    return validate(apply_overrides(load_text(text, "r.yaml"), overrides))


def changed(old: str, new: str) -> str:
    """The small recipe with a part replaced."""
    assert SMALL.count(old) == 1, old
    return SMALL.replace(old, new)


def error_of(text: str, *overrides: str) -> str:
    """What is said of a recipe that is wrong."""
    with pytest.raises(RecipeError) as caught:
        read(text, *overrides)
    return str(caught.value)
