"""AdapterHub's heads as ours and ours as its, without torch: which options are which, and which tensor is which."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, NamedTuple

from compose.errors import ConfigError, Problem
from compose.heads.spec import KINDS, ClassificationConfig, HeadConfig, VocabularyConfig, make_head_config
from compose.specs import BackboneSpec

OPTIONS = {
    "activation_function": "activation",
    "bias": "bias",
    "dropout_prob": "dropout",
    "embedding_size": "embedding_size",
    "layer_norm": "layer_norm",
    "layers": "layers",
    "shift_labels": "shift_labels",
    "use_pooler": "use_pooler",
    "vocab_size": "vocabulary",
}
"""AdapterHub's options that are ours by another name."""

POOLING = dict.fromkeys(("gpt2", "llama", "mistral", "t5", "mt5", "bart", "mbart", "plbart"), "adapterhub")
"""What its classification heads read, by architecture; elsewhere the first token."""


class Row(NamedTuple):
    """How a head type reads.

    Args:
        kind: our kind.
        options: those of AdapterHub's that it has.
        always: ours that it always has so.
        outputs: what `num_labels` must be, where the kind says that itself.
        theirs: options of AdapterHub's that it always has so, and that ours has none for.
    """

    kind: str
    options: tuple[str, ...]
    always: Mapping[str, object] = MappingProxyType({})
    outputs: int | None = None
    theirs: Mapping[str, object] = MappingProxyType({})


_LINEAR = ("activation_function", "bias", "dropout_prob", "layers", "use_pooler")
_VOCABULARY = (
    "activation_function",
    "bias",
    "embedding_size",
    "layer_norm",
    "layers",
    "vocab_size",
)
_OWN = MappingProxyType({"tied": False})
"""Its files hold the matrix of the vocabulary, whether it is tied or not."""

HEAD_TYPES: Mapping[str, Row] = {
    "classification": Row("classification", _LINEAR),
    "multilabel_classification": Row("multi_label", _LINEAR),
    "image_classification": Row("classification", _LINEAR),
    "tagging": Row("tagging", ("activation_function", "dropout_prob", "layers")),
    "question_answering": Row("question_answering", ("activation_function", "dropout_prob", "layers"), outputs=2),
    "causal_lm": Row("causal_lm", (*_VOCABULARY, "shift_labels"), _OWN),
    "masked_lm": Row("masked_lm", _VOCABULARY, _OWN, theirs=MappingProxyType({"shift_labels": False})),
}


class Layout(NamedTuple):
    """The modules of one of its heads, a `Sequential`: those that repeat, and those at the end."""

    repeated: tuple[str, ...]
    end: tuple[str, ...]


HEAD_KEYS: Mapping[str, Layout] = {
    "classification": Layout(("dropout", "dense", "activation"), ("dropout", "out")),
    "tagging": Layout(("dropout", "dense", "activation"), ("dropout", "out")),
    "question_answering": Layout(("dropout", "dense", "activation"), ("dropout", "out")),
    "causal_lm": Layout(("dense", "activation", "norm"), ("out",)),
    "masked_lm": Layout(("dense", "activation", "norm"), ("out",)),
}
"""By our kind. The names that have tensors (`dense`, `norm`, `out`) are those of our modules."""


def from_adapterhub_index(config: HeadConfig) -> dict[str, str]:
    """Which index of AdapterHub's `heads.NAME.<index>.` is which of our modules.

    >>> from_adapterhub_index(make_head_config("classification", layers=2))
    {'1': 'dense.0', '4': 'out'}
    >>> from_adapterhub_index(make_head_config("causal_lm", layers=2))
    {'0': 'dense.0', '2': 'norm.0', '3': 'out'}
    """
    layout = HEAD_KEYS[config.kind]
    absent = set()
    if getattr(config, "activation", None) is None:
        absent.add("activation")
    if isinstance(config, VocabularyConfig) and not config.layer_norm:
        absent.add("norm")
    modules = [
        f"{module}.{layer}"
        for layer in range(getattr(config, "layers", 1) - 1)
        for module in layout.repeated
        if module not in absent
    ]
    named = enumerate([*modules, *layout.end])
    return {str(index): name for index, name in named if name.split(".")[0] in ("dense", "norm", "out")}


def from_adapterhub_config(config: Mapping[str, Any], architecture: str) -> HeadConfig:
    """Our config for the `config` of its `head_config.json`.

    Args:
        config: that mapping.
        architecture: the file's `model_type`.

    Raises:
        ConfigError: a head type that we do not have, or options out of range.

    >>> from_adapterhub_config({"head_type": "classification", "num_labels": 1, "layers": 2,
    ...     "label2id": None, "use_pooler": False}, "bert").problem
    'regression'
    """
    head_type = str(config.get("head_type"))
    if head_type not in HEAD_TYPES:
        raise ConfigError(
            Problem(f"heads of type {head_type!r} cannot be read", got=head_type, legal=tuple(HEAD_TYPES))
        )
    row = HEAD_TYPES[head_type]
    kind = "multi_label" if config.get("multilabel") else row.kind
    options = {OPTIONS[name]: config[name] for name in row.options if name in config}
    if row.outputs is not None and config.get("num_labels", row.outputs) != row.outputs:
        what = f"num_labels={config['num_labels']!r}, but a {head_type} head has {row.outputs}: start and end"
        raise ConfigError(Problem(what))
    problems = [
        Problem(f"{name}={config[name]!r}, but a {head_type} head has {value!r}")
        for name, value in row.theirs.items()
        if config.get(name, value) != value
    ]
    if problems:
        raise ConfigError(problems)
    if row.outputs is None and "num_labels" in config:
        options["labels"] = config.get("label2id") or config["num_labels"]
        if kind == "classification" and config["num_labels"] == 1:
            kind = "regression"
    if KINDS[kind].config is ClassificationConfig and not options.get("use_pooler"):
        options["pooling"] = POOLING.get(architecture, "first")
    if isinstance(options.get("activation"), str):
        options["activation"] = options["activation"].lower()
    return make_head_config(kind, **options, **row.always)


def to_adapterhub_config(config: HeadConfig, backbone: BackboneSpec) -> dict[str, Any]:
    """The `config` of `head_config.json` for ours.

    What is written is read again, so that an option that it lacks cannot get lost.

    Args:
        config: the head's.
        backbone: the backbone that it is on.

    Raises:
        ConfigError: a kind of head or options that AdapterHub's format cannot say.
    """
    config = _plain(config, backbone)
    head_type = _head_type(config, backbone)
    row = HEAD_TYPES.get(head_type)
    if row is None:
        raise ConfigError(
            f"AdapterHub's format cannot say a head of kind '{config.kind}'", got=config.kind, hint="the native format"
        )
    values = config.to_dict()
    written = {name: values[OPTIONS[name]] for name in row.options} | dict(row.theirs)
    labels = [f"LABEL_{index}" for index in range(row.outputs)] if row.outputs else values.get("labels")
    if labels is not None:
        written |= {"num_labels": len(labels), "label2id": {label: index for index, label in enumerate(labels)}}
    if head_type == "image_classification":
        written["multilabel"] = values["problem"] == "multi_label"
    written["head_type"] = head_type
    found = from_adapterhub_config(written, backbone.architecture).to_dict()
    problems = [
        Problem(f"AdapterHub's format cannot say {name}={value!r}", why=f"it would be read as {found.get(name)!r}")
        for name, value in values.items()
        if found.get(name) != value
    ]
    if problems:
        raise ConfigError(problems)
    return written


def _head_type(config: HeadConfig, backbone: BackboneSpec) -> str:
    if isinstance(config, ClassificationConfig):
        if backbone.modality == "image":
            return "image_classification"
        return "multilabel_classification" if config.problem == "multi_label" else "classification"
    return config.kind


def _plain(config: HeadConfig, backbone: BackboneSpec) -> HeadConfig:
    """The same config with what it takes from the backbone written out."""
    reads_first = not backbone.causal and not backbone.encoder_decoder
    if isinstance(config, ClassificationConfig) and config.pooling is None and not config.use_pooler and reads_first:
        return replace(config, pooling="first")
    if isinstance(config, VocabularyConfig):
        return replace(
            config,
            tied=False,
            vocabulary=config.vocabulary or backbone.vocabulary,
            embedding_size=config.embedding_size or backbone.hidden_size,
        )
    return config
