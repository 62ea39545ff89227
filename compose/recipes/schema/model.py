"""`backbone`, `adapters`, `heads` and `fusions`: what the model is made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import model_validator
from pydantic_core import PydanticCustomError

from compose.recipes.schema.base import Count, Flag, Fraction, OpenSection, Section, Text


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


class Made(OpenSection):
    """What has weights of its own: it is made anew, or has a key `load` that says where it was saved."""

    made_by: ClassVar[str]
    """The key that says what is made, in place of `load`."""

    with_load: ClassVar[tuple[str, ...]] = ("load", "allow_backbone")
    """The keys that have a meaning with `load`."""

    @property
    def said(self) -> tuple[str, ...]:
        """The declared keys that have a meaning here."""
        known = type(self).model_fields
        return tuple(key for key in known if key in self.with_load or getattr(self, "load", None) is None)

    @model_validator(mode="after")
    def _made_or_loaded(self) -> Self:
        """One of the two, with the keys that go with it."""
        given = {key for key in (*self.model_fields_set, *self.options) if getattr(self, key) is not None}
        if "load" not in given and self.made_by not in given:
            raise PydanticCustomError("not_made", "neither made nor loaded", {"key": self.made_by})
        wrong = given - {*self.with_load} if "load" in given else given & {"allow_backbone"}
        if wrong:
            raise PydanticCustomError("not_with_load", "made and loaded", {"keys": sorted(wrong)})
        return self


class Adapter(Made):
    """An adapter: a method or preset and options of it, or one that was trained before.

    Args:
        method: a method or preset, as `compose methods` lists them.
        load: in place of `method`, the folder of a saved adapter: ours (`adapters/NAME` of a run), AdapterHub's or
            PEFT's. The path is relative to the file that it is written in.
        allow_backbone: load it although it was made for another backbone.
        sparsity: the share of its matrices' weights that is pruned before training.
        pruning: which of them go. `snip` decides it just before the first stage that has the adapter, by the loss of
            that stage.
        pruning_examples: how many examples of each of the stage's tasks `snip` looks at; 256 by default.
    """

    made_by = "method"
    with_load = (*Made.with_load, "subtract_projection")

    method: Text | None = None
    load: Text | None = None
    allow_backbone: Flag | None = None
    sparsity: Fraction = 0.0
    pruning: Literal["magnitude", "random", "snip"] = "magnitude"
    pruning_examples: Count | None = None


class Head(Made):
    """A head: its kind, its labels and options of the kind, or one that was trained before.

    Args:
        kind: what it answers.
        load: in place of `kind`, the folder of a saved head, ours (`heads/NAME` of a run) or AdapterHub's.
        allow_backbone: load it although it was made for another backbone.
        labels: their number, their names, or a mapping of names to ids; by default those of its data.
    """

    made_by = "kind"

    kind: Text | None = None
    load: Text | None = None
    allow_backbone: Flag | None = None
    labels: Any = None


class Fusion(Made):
    """A fusion: the Fuse that it is for, its kind and options of the kind, or one that was trained before.

    Args:
        expression: a `Fuse` over adapters.
        load: in place of `expression`, the folder of a saved fusion, ours (`fusions/NAME` of a run) or AdapterHub's.
        allow_backbone: load it although it was made for another backbone.
        kind: `dynamic`: attention with a value matrix; `static`: without; the others scale each child (ScaLearn).
    """

    made_by = "expression"

    expression: Text | None = None
    load: Text | None = None
    allow_backbone: Flag | None = None
    kind: Literal["dynamic", "static", "scalearn", "scalearn_uniform", "scalearn++", "scalearn_uniform++"] = "dynamic"


Part = Adapter | Head | Fusion
"""A part of the model beside the backbone."""
