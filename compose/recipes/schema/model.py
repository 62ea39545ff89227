"""`backbone`, `adapters`, `heads` and `fusions`: what the model is made of."""

from __future__ import annotations

from typing import Any, Literal

from compose.recipes.schema.base import Count, Fraction, OpenSection, Section, Text


class Backbone(Section):
    """The frozen transformer: its name as `compose.load` takes it, and the type of its weights."""

    name: Text
    dtype: Literal["float32", "float64", "bfloat16", "float16"] | None = None


class Adapter(OpenSection):
    """An adapter: a method or preset, and options of it.

    With `sparsity`, that share of its matrices' weights is pruned before training; `pruning` decides which go. `snip`
    does so just before the first stage that has the adapter, by the loss of that stage on `pruning_examples` of each
    of its tasks (256 where nothing is said).
    """

    method: Text
    sparsity: Fraction = 0.0
    pruning: Literal["magnitude", "random", "snip"] = "magnitude"
    pruning_examples: Count | None = None


class Head(OpenSection):
    """A head: its kind, its labels (by default those of its data), and options of the kind."""

    kind: Text
    labels: Any = None


class Fusion(OpenSection):
    """A fusion: the Fuse that it is for, its kind (`dynamic`: attention with a value matrix), and options."""

    expression: Text
    kind: Literal["dynamic", "static", "scalearn", "scalearn_uniform", "scalearn++", "scalearn_uniform++"] = "dynamic"
