"""`train`: stages, run in order."""

from __future__ import annotations

from typing import Literal

from compose.recipes.schema.base import Count, Flag, Fraction, NotNegative, Positive, Section, Text

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


class Stage(Section):
    """A stage of training; stages run in order.

    A step takes at most `batch_size` rows, or as many rows of about one length as stay within `batch_tokens`; with
    both, within both.

    Args:
        expression: what is trained; each of its tasks learns from the data of its name.
        regime: which of the weights are trained.
        name: of the stage, for reports.
        data: the source of a task, where it is not the one of its name.
        examples: how many examples of each task to learn from, drawn by the seed; all by default.
        epochs: how often each example is seen.
        batch_size: the most rows of a step; 16 where `batch_tokens` is not given either.
        batch_tokens: the most tokens of a step, padding among them.
        learning_rate: by default 1e-4 for adapters, 5e-5 for fusions and the last layers, 1e-3 for heads alone, 2e-5
            for the whole backbone.
        weight_decay: of AdamW.
        warmup: the share of the steps in which the learning rate rises; it then falls to 0.
        last: how many layers `last_layers` trains.
        train_layer_norms: whether the backbone's LayerNorms are trained too.
        trunk_cache: whether the layers below the first that adapters reach are computed once only.
        checkpoint_steps: after how many steps a checkpoint is written, from which `compose run --resume` goes on; one
            is after each epoch in any case.
        loss_weights: by task, what its loss is multiplied by.
    """

    expression: Text
    regime: Regime = "adapters"
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

    @property
    def rate(self) -> float:
        """The learning rate, the regime's own where the stage names none."""
        return self.learning_rate or LEARNING_RATES[self.regime]
