"""A whole recipe."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Strict, Tag

from compose.recipes.schema.base import Flag, Natural, Section, Text
from compose.recipes.schema.data import DataSource
from compose.recipes.schema.evaluate import Evaluate
from compose.recipes.schema.model import Adapter, Backbone, Fusion, Head
from compose.recipes.schema.predict import Predict
from compose.recipes.schema.train import Stage

Precision = Literal["float32", "bf16"]
Values = Annotated[tuple[Any, ...], Field(min_length=1)]
"""The values that a key takes in turn."""

Choices = Annotated[dict[Text, dict[str, Any]], Field(min_length=1)]
"""Choices by name, each of which sets several keys."""


class Report(Section):
    """How the results are told.

    Args:
        plots: whether it has plots.
    """

    plots: Flag = True


def _named(value: object) -> object:
    return {"name": value} if isinstance(value, str) else value


def _swept_as(value: object) -> str:
    return "choices" if isinstance(value, dict) else "values"


Swept = Annotated[
    Annotated[Values, Tag("values")] | Annotated[Choices, Tag("choices")],
    Discriminator(_swept_as),
]
"""What varies in a sweep, under a key or a name."""


def _several(value: object) -> object:
    return [value] if isinstance(value, str) else value


class Recipe(Section):
    """A whole experiment.

    Args:
        recipe: the version of this language.
        include: a file, or several, whose keys are taken where this one has none; paths are relative to this one.
        name: of the experiment, and of the folder of its results.
        description: one sentence on what it shows.
        seed: of everything that is drawn.
        seeds: in place of `seed`: everything runs once for each.
        sweep: lists of values by key (`a.b.0`, as `--set` names keys), or choices by name under a name of your own,
            each of which sets any keys: everything runs for each combination.
        backbone: the frozen transformer.
        precision: what is computed in; by default the type of the backbone's weights.
        device: what computes, `cpu` or `cuda`, a GPU. Runs on GPUs are untested.
        data_folder: where the paths of data begin; by default each begins in the folder of the file that it stands in.
        data: sources of labelled rows, by name.
        adapters: by name.
        heads: by the name of their task.
        fusions: by the name of the Fuse.
        train: stages, run in order.
        evaluate: what to measure on the test parts.
        predict: messages to answer.
        report: how the results are told.
        log: who is told of losses and scores while training: `tensorboard` (files in `logs/` of the run's folder), or
            another logger by the name that transformers' Trainer has for it; none by default.
    """

    recipe: Literal[1]
    include: Text | tuple[Text, ...] | None = None
    name: Annotated[str, Strict(), Field(pattern=r"^[.]*[A-Za-z0-9_-][A-Za-z0-9_.-]*$", max_length=64)]
    description: Annotated[str, Strict()] = ""
    seed: Natural = 42
    seeds: tuple[Natural, ...] = ()
    sweep: dict[str, Swept] = {}
    backbone: Annotated[Backbone, BeforeValidator(_named, json_schema_input_type=Text | Backbone)]
    precision: Precision | None = None
    device: Literal["cpu", "cuda"] = "cpu"
    data_folder: Text | None = None
    data: dict[str, DataSource] = {}
    adapters: dict[str, Adapter] = {}
    heads: dict[str, Head] = {}
    fusions: dict[str, Fusion] = {}
    train: tuple[Stage, ...] = ()
    evaluate: Evaluate = Evaluate()
    predict: Predict | None = None
    report: Report = Report()
    log: Annotated[tuple[Text, ...], BeforeValidator(_several, json_schema_input_type=Text | tuple[Text, ...])] = ()
