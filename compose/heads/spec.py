"""Configurations of heads, without torch: the options of each kind, and the table of kinds.

A new kind of head is a config class and a row of `KINDS` here, a module in a file of its own, and
a row of `HEADS` in `build.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar

from compose.errors import ConfigError, Problem

IGNORED = -100
"""The label that no loss counts."""

PROBLEMS = ("single", "multi_label", "regression")
POOLINGS = ("first", "last", "mean", "eos", "adapterhub")
ACTIVATIONS = (
    "tanh", "relu", "gelu", "gelu_new", "gelu_fast", "gelu_10", "gelu_pytorch_tanh", "quick_gelu", "silu",
    "swish", "hardswish", "mish", "leakyrelu", "leaky_relu", "relu2", "relu6", "sigmoid", "linear",
)  # fmt: skip

T = TypeVar("T")
Check = Callable[[object], object]
"""Gives the value in its one form, or raises ValueError saying what would be legal."""


def _option(default: T, check: Check) -> T:
    """A field with its check; typed as its default so that the class reads like any dataclass."""
    return field(default=default, metadata={"check": check})


def _whole(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    raise ValueError("a whole number of at least 1 is needed")


def _flag(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError("true or false is needed")


def _rate(value: object) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1:
        return float(value)
    raise ValueError("a number from 0 to below 1 is needed")


def _positive(value: object) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1:
        return float(value)
    raise ValueError("a number above 0 and below 1 is needed")


def _maybe(check: Check) -> Check:
    return lambda value: None if value is None else check(value)


def _one_of(legal: tuple[str, ...]) -> Check:
    def check(value: object) -> object:
        if value in legal:
            return value
        raise ValueError(f"one of {', '.join(map(repr, legal))} is needed")

    return check


def label_names(labels: object) -> tuple[str, ...]:
    """Labels in their one form: the names in the order of their ids.

    Args:
        labels: how many there are, their names in order, or a mapping of names to ids or ids to names.

    Returns:
        The names; a mere number gives `LABEL_0`, `LABEL_1`, ...

    Raises:
        ValueError: names twice or empty, or ids that are not 0, 1, 2, ...

    >>> label_names(2), label_names(["no", "yes"]), label_names({"no": 1, "yes": 0})
    (('LABEL_0', 'LABEL_1'), ('no', 'yes'), ('yes', 'no'))
    """
    if isinstance(labels, int) and not isinstance(labels, bool) and labels >= 1:
        return tuple(f"LABEL_{index}" for index in range(labels))
    if isinstance(labels, Mapping):
        names = _names_of_mapping(labels)
    elif isinstance(labels, (list, tuple)):
        names = tuple(labels)
    else:
        raise ValueError("a number of at least 1, a list of names, or a mapping of names to ids is needed")
    if not names or not all(isinstance(name, str) and name for name in names):
        raise ValueError("at least one name is needed, and every name is a text that is not empty")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"each name may occur once; twice: {', '.join(map(repr, twice))}")
    return names


def _names_of_mapping(labels: Mapping[Any, Any]) -> tuple[str, ...]:
    ids_first = all(isinstance(value, str) for value in labels.values())
    try:  # JSON turns ids that are keys into text
        by_id = {int(key if ids_first else value): (value if ids_first else key) for key, value in labels.items()}
    except (TypeError, ValueError):
        raise ValueError("a mapping goes from names to ids or from ids to names") from None
    if sorted(by_id) != list(range(len(labels))):
        raise ValueError(f"the ids must be 0 to {len(labels) - 1}, each once")
    return tuple(by_id[index] for index in range(len(by_id)))


@dataclass(frozen=True)
class HeadConfig:
    """What all head configs share. Build one with `make_head_config`, which checks its options."""

    kind: ClassVar[str] = ""

    def to_dict(self) -> dict[str, Any]:
        """The config as JSON takes it: `make_head_config(**config.to_dict())` is the config again."""
        values = {option.name: getattr(self, option.name) for option in fields(self)}
        return {"kind": self.kind} | {
            name: list(value) if isinstance(value, tuple) else value for name, value in values.items()
        }

    def conflicts(self) -> list[Problem]:
        """What is wrong with the options taken together."""
        return []


@dataclass(frozen=True)
class ClassificationConfig(HeadConfig):
    """One answer for a row: a label, several labels, or numbers.

    Args:
        labels: names of the labels; given as a number, a list of names or a mapping. For a
            regression the names of its values.
        problem: `single` (cross entropy), `multi_label` (each label yes or no), `regression`
            (mean squared error).
        layers: linear maps; all but the last have the width of the backbone and an activation.
        activation: between them, or None.
        bias: whether the last map has a bias.
        dropout: before each map, in training; None is the backbone's own rate for its classifier.
        use_pooler: read the backbone's pooled output.
        pooling: otherwise, the token that is read: `first`, `last` (not padding), `mean` (of all
            that are not padding), `eos` (the last end-of-sequence token), or `adapterhub` (what that
            library reads: of a causal backbone the last token that is not the padding token, or the
            last position, padded or not, where the backbone names no such token; of an encoder-decoder
            the last end-of-sequence token, of T5 with its states scaled as for its vocabulary; else
            the first). None: `last` for causal backbones, `eos` for encoder-decoders, else `first`.
    """

    kind: ClassVar[str] = "classification"
    labels: tuple[str, ...] = _option(("LABEL_0", "LABEL_1"), label_names)
    problem: Literal["single", "multi_label", "regression"] = _option("single", _one_of(PROBLEMS))
    layers: int = _option(1, _whole)
    activation: str | None = _option("tanh", _maybe(_one_of(ACTIVATIONS)))
    bias: bool = _option(True, _flag)
    dropout: float | None = _option(None, _maybe(_rate))
    use_pooler: bool = _option(False, _flag)
    pooling: Literal["first", "last", "mean", "eos", "adapterhub"] | None = _option(None, _maybe(_one_of(POOLINGS)))

    def conflicts(self) -> list[Problem]:
        found = []
        if self.problem == "single" and len(self.labels) < 2:
            found.append(Problem("one label leaves nothing to choose from", hint="two labels, or problem='regression'"))
        if self.use_pooler and self.pooling is not None:
            found.append(Problem(f"use_pooler=True and pooling='{self.pooling}' exclude each other"))
        return found


@dataclass(frozen=True)
class TaggingConfig(HeadConfig):
    """A label for every token.

    Args:
        labels: names of the labels, such as `O`, `B-person`, `I-person`; as for classification.
        layers: linear maps; all but the last have the width of the backbone and an activation.
        activation: between them, or None.
        dropout: before each map, in training; None is the backbone's own rate for its classifier.
    """

    kind: ClassVar[str] = "tagging"
    labels: tuple[str, ...] = _option(("LABEL_0", "LABEL_1"), label_names)
    layers: int = _option(1, _whole)
    activation: str | None = _option("tanh", _maybe(_one_of(ACTIVATIONS)))
    dropout: float | None = _option(None, _maybe(_rate))

    def conflicts(self) -> list[Problem]:
        return [Problem("one label leaves nothing to choose from")] if len(self.labels) < 2 else []


@dataclass(frozen=True)
class QuestionAnsweringConfig(HeadConfig):
    """The place in a text where the answer to a question stands (extractive question answering).

    Args:
        layers: linear maps; all but the last have the width of the backbone and an activation.
        activation: between them, or None.
        dropout: before each map, in training; None is the backbone's own rate for its classifier.
        max_answer_length: the most tokens of an answer.
        unanswerable: whether there may be no answer (SQuAD 2): that is said where the first token, which stands for it,
            scores higher than any answer. Else there always is one.
    """

    kind: ClassVar[str] = "question_answering"
    layers: int = _option(1, _whole)
    activation: str | None = _option("tanh", _maybe(_one_of(ACTIVATIONS)))
    dropout: float | None = _option(None, _maybe(_rate))
    max_answer_length: int = _option(30, _whole)
    unanswerable: bool = _option(False, _flag)


@dataclass(frozen=True)
class VocabularyConfig(HeadConfig):
    """What heads over the vocabulary share.

    Args:
        layers: linear maps; the last has the width of the vocabulary.
        activation: after each map but the last, or None.
        layer_norm: whether a LayerNorm follows each map but the last.
        layer_norm_eps: its epsilon; None is the backbone's.
        bias: whether the last map has a bias.
        vocabulary: size of the vocabulary; None is the backbone's.
        embedding_size: width of the maps before the last; None is the backbone's.
        tied: the last map's matrix is the backbone's input embeddings, and is neither trained nor saved with the head;
            else the head has one of its own, which starts as a copy of them where they fit.
    """

    layers: int = _option(1, _whole)
    activation: str | None = _option("gelu", _maybe(_one_of(ACTIVATIONS)))
    layer_norm: bool = _option(True, _flag)
    layer_norm_eps: float | None = _option(None, _maybe(_positive))
    bias: bool = _option(False, _flag)
    vocabulary: int | None = _option(None, _maybe(_whole))
    embedding_size: int | None = _option(None, _maybe(_whole))
    tied: bool = _option(False, _flag)


@dataclass(frozen=True)
class CausalLMConfig(VocabularyConfig):
    """The next token of every token.

    Args:
        shift_labels: the label of a position is the token after it; else the token at it.
    """

    kind: ClassVar[str] = "causal_lm"
    shift_labels: bool = _option(True, _flag)


@dataclass(frozen=True)
class MaskedLMConfig(VocabularyConfig):
    """The tokens that are hidden behind masks.

    Args:
        mask_probability: the share of a text's tokens that are chosen to be predicted in training and in scores: of
            them 80% are masked, 10% are another token and 10% stay (Devlin et al., 2019).
    """

    kind: ClassVar[str] = "masked_lm"
    layers: int = _option(2, _whole)
    bias: bool = _option(True, _flag)
    tied: bool = _option(True, _flag)
    mask_probability: float = _option(0.15, _positive)


@dataclass(frozen=True)
class CustomConfig(HeadConfig):
    """A head that is a user's own module.

    Args:
        module: name of its class, for people; it is not looked up.
    """

    kind: ClassVar[str] = "custom"
    module: str = ""


class Kind(NamedTuple):
    """A row of `KINDS`: the config class, and options that this name presets."""

    config: type[HeadConfig]
    preset: Mapping[str, object]


KINDS: Mapping[str, Kind] = {
    "classification": Kind(ClassificationConfig, {}),
    "multi_label": Kind(ClassificationConfig, {"problem": "multi_label"}),
    "regression": Kind(ClassificationConfig, {"problem": "regression", "labels": 1}),
    "image_classification": Kind(ClassificationConfig, {"pooling": "first"}),
    "tagging": Kind(TaggingConfig, {}),
    "question_answering": Kind(QuestionAnsweringConfig, {}),
    "causal_lm": Kind(CausalLMConfig, {}),
    "masked_lm": Kind(MaskedLMConfig, {}),
}


def make_head_config(kind: str | HeadConfig, **options: object) -> HeadConfig:
    """A head's config from its kind and options.

    Args:
        kind: a name in `KINDS`, or a config, whose options are then checked too.
        options: those of the kind's config class; they override the config's.

    Raises:
        ConfigError: the kind or options are unknown or out of range; all of them at once.

    >>> make_head_config("regression")
    ClassificationConfig(labels=('LABEL_0',), problem='regression', layers=1, activation='tanh', bias=True, \
dropout=None, use_pooler=False, pooling=None)
    >>> make_head_config("classification", labels=["no", "yes"]).labels
    ('no', 'yes')
    """
    if isinstance(kind, CustomConfig):
        return kind
    if isinstance(kind, HeadConfig):
        given = kind.to_dict()
        return make_head_config(str(given.pop("kind")), **given | options)
    if kind not in KINDS:
        raise ConfigError(f"there is no kind of head called {kind!r}", got=str(kind), legal=tuple(KINDS))
    row = KINDS[kind]
    checks: dict[str, Check] = {option.name: option.metadata["check"] for option in fields(row.config)}
    values: dict[str, Any] = {}
    problems: list[Problem] = []
    where = f"{kind} head"
    for name, value in {**row.preset, **options}.items():
        if name not in checks:
            problems.append(Problem(f"no option is called '{name}'", where=where, got=name, legal=tuple(checks)))
            continue
        try:
            values[name] = checks[name](value)
        except ValueError as error:
            problems.append(Problem(f"{name}={value!r} is not legal: {error}", where=where))
    config = row.config(**values)
    if not problems:
        problems = config.conflicts()
    if problems:
        raise ConfigError(problems)
    return config
