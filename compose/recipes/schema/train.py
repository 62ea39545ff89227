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

    A step takes at most `batch_size` rows, 16 where nothing is said, or as many rows of about one length
    as stay within `batch_tokens`, padding among them; with both, within both. `trunk_cache` computes the layers
    below the first that adapters reach once only. A checkpoint, from which `compose run --resume` goes on, is written
    after each epoch and after each `checkpoint_steps` steps.
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
