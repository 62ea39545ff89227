"""`evaluate`: what to measure."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WrapValidator
from pydantic_core import PydanticCustomError

from compose.recipes.schema.base import Count, Flag, Natural, Section, Text

Baseline = Literal["head_only", "tfidf"]
MetricName = Literal[
    "accuracy", "f1", "f1_macro", "f1_micro", "matthews", "precision", "recall", "exact_match", "pearson", "spearman",
    "mean_squared_error", "perplexity", "cross_entropy",
]  # fmt: skip


OF_ONE_LABEL = r"^(f1|precision|recall):."


def _of_one_label(value: object, others: Callable[[object], Any]) -> Any:
    """A metric of one label as it is; one error for what is no metric, where a union would tell of each member."""
    return value if isinstance(value, str) and re.match(OF_ONE_LABEL, value) else others(value)


LabelMetric = Annotated[str, Field(pattern=OF_ONE_LABEL)]
AnyMetric = Annotated[MetricName, WrapValidator(_of_one_label, json_schema_input_type=MetricName | LabelMetric)]


def _several(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _text_or_texts(value: object) -> object:
    """One error for what is neither; a union would tell of each of its members."""
    texts = value.items() if isinstance(value, dict) and value else ((value, value),)
    if all(isinstance(each, str) and each for pair in texts for each in pair):
        return value
    raise PydanticCustomError("expressions", "be an expression, or one for each source by the source's name")


Metrics = Annotated[
    tuple[AnyMetric, ...],
    BeforeValidator(_several, json_schema_input_type=MetricName | LabelMetric | list[MetricName | LabelMetric]),
    Field(min_length=1),
]
"""A metric's name, or several."""


SourceNames = Annotated[
    tuple[Text, ...],
    BeforeValidator(_several, json_schema_input_type=Text | list[Text]),
    Field(min_length=1),
]
"""The name of a source, or of several."""

TextOrTexts = Annotated[Text | dict[str, Text], BeforeValidator(_text_or_texts)]
"""An expression, or one for each source."""


class DropCurve(Section):
    """Scores and speed as adapters are dropped from the first layers.

    Args:
        expression: whose adapters are dropped.
        first: from how many of the first layers, each in turn.
    """

    expression: Text
    first: Annotated[tuple[Natural, ...], Field(min_length=1)]


class FusionCurve(Section):
    """Scores and speed as fusions keep fewer children (AdapterDrop, Rücklé et al., 2021): those that they look at most.

    Args:
        expression: whose fusions are pruned.
        keep: how many children each of them keeps, each in turn; one that has no more stays as it is.
    """

    expression: Text
    keep: Annotated[tuple[Count, ...], Field(min_length=1)]


class Evaluate(Section):
    """What to measure on the test parts.

    Args:
        expressions: named systems, each an expression whose tasks are scored; or a mapping of sources to expressions,
            of which each is scored on its source.
        data: the source of a task, where it is not the one of its name; or several, on each of which it is scored.
        metrics: of a task, what is measured: a name or several, the first of which tables and means are made of. By
            default all that its kind has, of labels the accuracy first, of sets of labels F1 micro, of numbers
            Pearson's correlation, of entities and of answers their F1, of tokens the accuracy. `f1:LABEL`,
            `precision:LABEL` and `recall:LABEL` are of one label alone.
        baselines: what to compare with, trained on the same rows.
        drop_curve: the layers dropped, and the expression.
        fusion_curve: the numbers of children that fusions keep, and the expression.
        fusion_attention: whether to record where each fusion looks.
        batch_size: the most rows at a time.
        batch_tokens: the most tokens at a time, padding among them; where neither is given, as the device takes.
        stride: texts that are longer than the backbone takes are answered in windows that overlap by so many tokens; by
            default they are cut.
    """

    expressions: dict[str, TextOrTexts] = {}
    data: dict[str, SourceNames] = {}
    metrics: dict[str, Metrics] = {}
    baselines: tuple[Baseline, ...] = ()
    drop_curve: DropCurve | None = None
    fusion_curve: FusionCurve | None = None
    fusion_attention: Flag = False
    batch_size: Count | None = None
    batch_tokens: Count | None = None
    stride: Natural | None = None

    def texts(self) -> list[str]:
        """The expressions of all systems."""
        every = [[given] if isinstance(given, str) else list(given.values()) for given in self.expressions.values()]
        return [text for texts in every for text in texts]

    def texts_for(self, source: str) -> list[str]:
        """The expressions that are for one source, this one."""
        found = [given.get(source) for given in self.expressions.values() if not isinstance(given, str)]
        return [text for text in found if text is not None]
