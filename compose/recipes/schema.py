"""What a recipe may say: typed sections, unknown keys refused.

Only closed lists of kinds; nothing in a recipe names code. What the sections say about each other
(adapters in expressions, heads of tasks, columns of data) is checked in `checks.py`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, Strict

Text = Annotated[str, Strict(), Field(min_length=1)]
Flag = Annotated[bool, Strict()]
Count = Annotated[int, Strict(), Field(ge=1)]
Natural = Annotated[int, Strict(), Field(ge=0)]
Positive = Annotated[float, Strict(), Field(gt=0)]
NotNegative = Annotated[float, Strict(), Field(ge=0)]
Fraction = Annotated[float, Strict(), Field(ge=0, lt=1)]

Regime = Literal["adapters", "fusion", "heads", "last_layers", "full", "full+adapters"]
Precision = Literal["float32", "bf16"]
Baseline = Literal["head_only", "tfidf"]
MetricName = Literal[
    "accuracy", "f1", "f1_macro", "f1_micro", "matthews", "precision", "recall", "exact_match", "pearson", "spearman",
    "mean_squared_error",
]  # fmt: skip

LEARNING_RATES: dict[str, float] = {
    "adapters": 1e-4,
    "fusion": 5e-5,
    "heads": 1e-3,
    "last_layers": 5e-5,
    "full": 2e-5,
    "full+adapters": 2e-5,
}
"""The learning rate of a stage that names none, by its regime."""


class Section(BaseModel):
    """Base of all sections."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class OpenSection(Section):
    """A section whose other keys are options, checked by what they are options of."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    @property
    def options(self) -> dict[str, Any]:
        """The other keys."""
        return dict(self.model_extra or {})


class Backbone(Section):
    """The frozen transformer: its name as `compose.load` takes it, and the type of its weights."""

    name: Text
    dtype: Literal["float32", "float64", "bfloat16", "float16"] | None = None


class Sample(Section):
    """How many rows of each part to use, drawn by the recipe's seed; all where none is said."""

    train: Count | None = None
    test: Count | None = None


class Source(Section):
    """What all data sources say: which columns hold what.

    A source has a `label`, or `entities` (character spans in the text), or `tags` (one for each of
    the `tokens`, which then take the place of `text`).
    """

    text: Text | None = None
    pair: Text | None = None
    tokens: Text | None = None
    label: Text | None = None
    entities: Text | None = None
    tags: Text | None = None
    sample: Sample = Sample()


class Bundled(Source):
    """Data that comes with compose, in recipes/data."""

    kind: Literal["bundled"]
    name: Text


class Jsonl(Source):
    """Local files with a JSON object on each line; paths are relative to the recipe."""

    kind: Literal["jsonl"]
    train: Text
    test: Text | None = None


DataSource = Annotated[Bundled | Jsonl, Field(discriminator="kind")]


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


class Stage(Section):
    """A stage of training; stages run in order.

    A step takes at most `batch_size` rows, 16 where nothing is said, or as many rows of about one length
    as stay within `batch_tokens`, padding among them; with both, within both. `trunk_cache` computes the layers
    below the first that adapters reach in the first epoch only.
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

    @property
    def rate(self) -> float:
        """The learning rate, the regime's own where the stage names none."""
        return self.learning_rate or LEARNING_RATES[self.regime]


class DropCurve(Section):
    """Scores and speed as adapters are dropped from the first layers."""

    expression: Text
    first: Annotated[tuple[Natural, ...], Field(min_length=1)]


def _several(value: object) -> object:
    return [value] if isinstance(value, str) else value


class Evaluate(Section):
    """What to measure on the test parts.

    Args:
        expressions: named systems, each an expression whose tasks are scored.
        data: the source of a task, where it is not the one of its name.
        metrics: of a task, what is measured: a name or several, the first of which tables and means are made of. By
            default all that its kind has, of labels the accuracy first, of sets of labels F1 micro, of numbers
            Pearson's correlation, of entities their F1.
        baselines: what to compare with, trained on the same rows.
        drop_curve: the layers dropped, and the expression.
        fusion_attention: whether to record where each fusion looks.
        batch_size: the most rows at a time.
        batch_tokens: the most tokens at a time, padding among them; where neither is given, as the device takes.
    """

    expressions: dict[str, Text] = {}
    data: dict[str, Text] = {}
    metrics: dict[str, Annotated[tuple[MetricName, ...], BeforeValidator(_several), Field(min_length=1)]] = {}
    baselines: tuple[Baseline, ...] = ()
    drop_curve: DropCurve | None = None
    fusion_attention: Flag = False
    batch_size: Count | None = None
    batch_tokens: Count | None = None


class Compare(Section):
    """One pass against separate passes: for which numbers of messages, and how often timed."""

    messages: Annotated[tuple[Count, ...], Field(min_length=1)] = (1, 32)
    repeats: Count = 5


class Predict(Section):
    """Messages to answer with an expression; it is what `compose predict` runs later."""

    expression: Text
    texts: tuple[Text, ...] = ()
    compare: Compare | None = None


class Report(Section):
    """How the results are told."""

    plots: Flag = True


def _named(value: object) -> object:
    return {"name": value} if isinstance(value, str) else value


class Recipe(Section):
    """A whole experiment."""

    recipe: Literal[1]
    name: Annotated[str, Strict(), Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
    description: Text = ""
    seed: Natural = 42
    backbone: Annotated[Backbone, BeforeValidator(_named)]
    precision: Precision | None = None
    data: dict[str, DataSource] = {}
    adapters: dict[str, Adapter] = {}
    heads: dict[str, Head] = {}
    fusions: dict[str, Fusion] = {}
    train: tuple[Stage, ...] = ()
    evaluate: Evaluate = Evaluate()
    predict: Predict | None = None
    report: Report = Report()
