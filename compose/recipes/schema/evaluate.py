"""`evaluate`: what to measure."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from compose.recipes.schema.base import Count, Flag, Natural, Section, Text

Baseline = Literal["head_only", "tfidf"]


class DropCurve(Section):
    """Scores and speed as adapters are dropped from the first layers.

    Args:
        expression: whose adapters are dropped.
        first: from how many of the first layers, each in turn.
    """

    expression: Text
    first: Annotated[tuple[Natural, ...], Field(min_length=1)]


class Evaluate(Section):
    """What to measure on the test parts.

    Args:
        expressions: named systems, each an expression whose tasks are scored.
        data: the source of a task, where it is not the one of its name.
        baselines: what to compare with, trained on the same rows.
        drop_curve: the layers dropped, and the expression.
        fusion_attention: whether to record where each fusion looks.
        batch_size: the most rows at a time.
        batch_tokens: the most tokens at a time, padding among them; where neither is given, as the device takes.
    """

    expressions: dict[str, Text] = {}
    data: dict[str, Text] = {}
    baselines: tuple[Baseline, ...] = ()
    drop_curve: DropCurve | None = None
    fusion_attention: Flag = False
    batch_size: Count | None = None
    batch_tokens: Count | None = None
