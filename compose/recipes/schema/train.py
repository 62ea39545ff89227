"""`train`: stages, run in order."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Discriminator, Field, Strict, Tag

from compose.recipes.schema.base import Count, Flag, Fraction, Natural, NotNegative, Positive, Section, Text

Regime = Literal["adapters", "fusion", "heads", "last_layers", "full", "full+adapters"]

LEARNING_RATES: dict[str, float] = {
    "adapters": 1e-4,
    "fusion": 5e-5,
    "heads": 1e-3,
    "last_layers": 5e-5,
    "full": 2e-5,
    "full+adapters": 2e-5,
}
"""The learning rate of a stage that names none, by its regime."""

TRAINS_BACKBONE: tuple[Regime, ...] = ("last_layers", "full", "full+adapters")
"""Regimes in which weights of the backbone are trained."""


WORD, MAPPING = "a word", "a mapping"


def _said_as(value: object) -> str:
    """Which of the two is meant; a plain union would tell of each why the value is none."""
    return MAPPING if isinstance(value, dict | BaseModel) else WORD


Balanced = Literal["balanced"]
LabelWeights = Annotated[
    Annotated[Balanced, Tag(WORD)] | Annotated[dict[str, Positive], Tag(MAPPING)], Discriminator(_said_as)
]
ClassWeights = Annotated[
    Annotated[Balanced, Tag(WORD)] | Annotated[dict[str, LabelWeights], Tag(MAPPING)], Discriminator(_said_as)
]


class Temperature(Section):
    """Data sets in proportion to a root of their sizes.

    Args:
        temperature: a data set of n rows has steps in proportion to n^(1/temperature): 1 is proportional to sizes.
    """

    temperature: Annotated[float, Strict(), Field(ge=1)]


Sampling = Annotated[
    Annotated[Literal["proportional", "uniform"], Tag(WORD)] | Annotated[Temperature, Tag(MAPPING)],
    Discriminator(_said_as),
]


class EarlyStop(Section):
    """When a stage ends before its last epoch; it keeps the weights of the best epoch.

    Args:
        patience: after how many epochs without a better score on the validation parts.
        metric: the score that counts: `mean`, of all tasks' main metrics, or a task and one of its metrics, as
            `topic.f1_macro`.
    """

    patience: Count = 3
    metric: Text = "mean"


class Stage(Section):
    """A stage of training; stages run in order.

    A step takes at most `batch_size` rows, or as many rows of about one length as stay within `batch_tokens`; with
    both, within both.

    Args:
        expression: what is trained; each of its tasks learns from the data of its name.
        regime: which of the weights are trained.
        adapters: which of the expression's adapters are trained, by default all; the others stay as they are.
        name: of the stage, for reports.
        data: the source of a task, where it is not the one of its name.
        examples: how many examples of each task to learn from, drawn by the seed; all by default.
        epochs: how often each example is seen.
        batch_size: the most rows that are run at a time; 16 where `batch_tokens` is not given either.
        batch_tokens: the most tokens that are run at a time, padding among them.
        learning_rate: by default 1e-4 for adapters, 5e-5 for fusions and the last layers, 1e-3 for heads alone, 2e-5
            for the whole backbone.
        weight_decay: of AdamW.
        warmup: the share of the steps in which the learning rate rises.
        last: how many layers `last_layers` trains.
        train_layer_norms: whether the backbone's LayerNorms are trained too.
        trunk_cache: whether the layers below the first that adapters reach are computed once only.
        loss_weights: by task, what its loss is multiplied by.
        checkpoint_steps: after how many steps the state is kept from which `compose run --resume` goes on; after each
            epoch it always is.
        gradient_accumulation: how many times as large a step is as what is run at a time; the gradients are those of
            the whole step.
        gradient_checkpointing: whether activations are computed again in the backward pass instead of kept.
        max_steps: the steps after which the stage ends, if it has more.
        scheduler: how the learning rate goes on after it has risen: `linear` and `cosine` fall to 0, `constant` stays.
        sampling: how steps of different data sets alternate: `proportional` to their sizes, each row once an epoch,
            `uniform`, or by a `temperature`.
        class_weights: `balanced`: rare labels weigh more in the loss; or by task that, or a weight for each label.
        early_stopping: when to end before the last epoch; it needs validation parts.
        stride: texts that are longer than the backbone takes are learned from, and scored after each epoch, in windows
            that overlap by so many tokens; by default they are cut.
    """

    expression: Text
    regime: Regime = "adapters"
    adapters: tuple[Text, ...] = ()
    name: Text | None = None
    data: dict[str, Text] = {}
    examples: Count | None = None
    epochs: Count = 3
    batch_size: Count | None = None
    batch_tokens: Count | None = None
    learning_rate: Positive | None = None
    weight_decay: NotNegative = 0.0
    warmup: Fraction = 0.1
    last: Count = 1
    train_layer_norms: Flag = False
    trunk_cache: Flag = False
    loss_weights: dict[str, NotNegative] = {}
    checkpoint_steps: Count | None = None
    gradient_accumulation: Count = 1
    gradient_checkpointing: Flag = False
    max_steps: Count | None = None
    scheduler: Literal["linear", "cosine", "constant"] = "linear"
    sampling: Sampling = "proportional"
    class_weights: ClassWeights = {}
    early_stopping: EarlyStop | None = None
    stride: Natural | None = None

    @property
    def rate(self) -> float:
        """The learning rate, the regime's own where the stage names none."""
        return self.learning_rate or LEARNING_RATES[self.regime]
