"""`backbone`, `adapters`, `heads` and `fusions`: what the model is made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from compose.recipes.schema.base import Count, Fraction, OpenSection, Section, Text


class Backbone(Section):
    """The frozen transformer; a name alone, `backbone: minilm`, says as much.

    With an `architecture` in place of a name it has random weights, drawn by the seed: a stage with `regime: full`
    trains it on the spot, and the run's folder keeps it.

    Args:
        name: a short name, a hub id or a folder, as `compose.load` takes it.
        architecture: what to make a backbone of with random weights: `vit`, or another one that compose knows.
        config: what is other than the architecture's defaults, as transformers' configuration calls it.
        dtype: the type of its weights; by default that of its files.
    """

    name: Text | None = None
    architecture: Text | None = None
    config: dict[str, Any] | None = None
    dtype: Literal["float32", "float64", "bfloat16", "float16"] | None = None

    @property
    def called(self) -> str:
        """What to call it in messages and reports."""
        return called({"name": self.name, "architecture": self.architecture})


def called(backbone: Mapping[str, Any]) -> str:
    """What to call a backbone that a recipe says so.

    >>> called({"name": "minilm"}), called({"architecture": "vit"})
    ('minilm', 'vit, made of its config')
    """
    return str(backbone.get("name") or f"{backbone.get('architecture')}, made of its config")


class Adapter(OpenSection):
    """An adapter: a method or preset, and options of it.

    Args:
        method: a method or preset, as `compose methods` lists them.
        sparsity: the share of its matrices' weights that is pruned before training.
        pruning: which of them go. `snip` decides it just before the first stage that has the adapter, by the loss of
            that stage.
        pruning_examples: how many examples of each of the stage's tasks `snip` looks at; 256 by default.
    """

    method: Text
    sparsity: Fraction = 0.0
    pruning: Literal["magnitude", "random", "snip"] = "magnitude"
    pruning_examples: Count | None = None


class Head(OpenSection):
    """A head: its kind, its labels, and options of the kind.

    Args:
        kind: what it answers.
        labels: their number, their names, or a mapping of names to ids; by default those of its data.
    """

    kind: Text
    labels: Any = None


class Fusion(OpenSection):
    """A fusion: the Fuse that it is for, its kind, and options of the kind.

    Args:
        expression: a `Fuse` over adapters.
        kind: `dynamic`: attention with a value matrix; `static`: without; the others scale each child (ScaLearn).
    """

    expression: Text
    kind: Literal["dynamic", "static", "scalearn", "scalearn_uniform", "scalearn++", "scalearn_uniform++"] = "dynamic"
