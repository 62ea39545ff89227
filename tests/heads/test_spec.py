"""Configs of heads: options, their checks, and AdapterHub's options and indices."""

from __future__ import annotations

from typing import Any

import pytest

from compose.errors import ConfigError
from compose.heads.adapterhub import HEAD_TYPES, from_adapterhub_config, from_adapterhub_index
from compose.heads.spec import (
    KINDS,
    CausalLMConfig,
    ClassificationConfig,
    CustomConfig,
    QuestionAnsweringConfig,
    TaggingConfig,
    label_names,
    make_head_config,
)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_defaults_and_survives_json(kind: str) -> None:
    config = make_head_config(kind)
    assert isinstance(config, KINDS[kind].config)
    assert make_head_config(**config.to_dict()) == config
    assert make_head_config(config) == config
    assert hash(config) == hash(make_head_config(kind))


def test_options_override() -> None:
    config = make_head_config("classification", labels=["no", "yes"], layers=2)
    assert config == ClassificationConfig(("no", "yes"), layers=2)
    assert make_head_config(config, dropout=0.5) == ClassificationConfig(("no", "yes"), layers=2, dropout=0.5)
    assert make_head_config(CustomConfig("Mine")) == CustomConfig("Mine")


def test_all_problems_at_once_with_nearest_names() -> None:
    with pytest.raises(ConfigError) as caught:
        make_head_config("classification", label=3, layers=0, activation="tan", dropout=1.5, bias="yes")
    text = str(caught.value)
    assert len(caught.value.problems) == 5
    assert "no option is called 'label'" in text and "legal: 'labels'" in text
    assert "layers=0 is not legal" in text and "'tanh'" in text
    with pytest.raises(ConfigError, match="legal: 'classification'"):
        make_head_config("clasification")


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("classification", {"labels": 1}, "problem='regression'"),
        ("classification", {"use_pooler": True, "pooling": "mean"}, "exclude each other"),
        ("classification", {"labels": ["a", "a"]}, "twice: 'a'"),
        ("classification", {"labels": {"a": 0, "b": 2}}, "0 to 1"),
        ("classification", {"labels": []}, "at least one name"),
        ("classification", {"labels": True}, "a list of names"),
        ("tagging", {"labels": ["O"]}, "nothing to choose"),
        ("causal_lm", {"vocabulary": 0}, "at least 1"),
        ("tagging", {"pooling": "first"}, "no option is called 'pooling'"),
    ],
)
def test_refused(kind: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_head_config(kind, **options)


def test_label_mappings_go_both_ways() -> None:
    assert label_names({0: "a", 1: "b"}) == label_names({"1": "b", "0": "a"}) == label_names({"b": 1, "a": 0})


def hub(**options: Any) -> dict[str, Any]:
    """A `head_config.json` of a classification head."""
    base = {
        "activation_function": "tanh",
        "bias": True,
        "dropout_prob": None,
        "head_type": "classification",
        "label2id": None,
        "layers": 2,
        "num_labels": 3,
        "use_pooler": False,
    }
    return base | options


def test_adapterhub_classification() -> None:
    config = from_adapterhub_config(hub(label2id={"x": 1, "y": 0, "z": 2}), "bert")
    assert config == ClassificationConfig(("y", "x", "z"), layers=2, pooling="first")
    assert from_adapterhub_config(hub(), "gpt2").pooling == "adapterhub"
    assert from_adapterhub_config(hub(num_labels=1), "bert").problem == "regression"
    assert from_adapterhub_config(hub(use_pooler=True), "bert").pooling is None
    multi = from_adapterhub_config(hub(head_type="multilabel_classification"), "bert")
    assert multi.problem == "multi_label"
    image = from_adapterhub_config(hub(head_type="image_classification", multilabel=True, layers=1), "vit")
    assert image.problem == "multi_label"


def test_adapterhub_other_types() -> None:
    tagging = {
        "activation_function": "tanh",
        "dropout_prob": 0.2,
        "head_type": "tagging",
        "label2id": None,
        "layers": 1,
        "num_labels": 5,
    }
    assert from_adapterhub_config(tagging, "gpt2") == TaggingConfig(label_names(5), dropout=0.2)
    answers = from_adapterhub_config({**tagging, "head_type": "question_answering", "num_labels": 2}, "bert")
    assert answers == QuestionAnsweringConfig(dropout=0.2)
    causal = {
        "activation_function": "GELU",
        "bias": True,
        "embedding_size": 32,
        "head_type": "causal_lm",
        "label2id": None,
        "layer_norm": True,
        "layers": 2,
        "shift_labels": True,
        "vocab_size": 99,
    }
    config = from_adapterhub_config(causal, "gpt2")
    assert config == CausalLMConfig(2, "gelu", bias=True, vocabulary=99, embedding_size=32)
    with pytest.raises(ConfigError, match="'clasification'"):
        from_adapterhub_config({"head_type": "clasification"}, "bert")
    assert set(HEAD_TYPES) >= {"classification", "tagging", "causal_lm"}


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        ("classification", {"layers": 1}, {"1": "out"}),
        ("classification", {"layers": 3}, {"1": "dense.0", "4": "dense.1", "7": "out"}),
        ("classification", {"layers": 2, "activation": None}, {"1": "dense.0", "3": "out"}),
        ("tagging", {}, {"1": "out"}),
        ("question_answering", {"layers": 2}, {"1": "dense.0", "4": "out"}),
        ("causal_lm", {"layers": 1}, {"0": "out"}),
        ("causal_lm", {"layers": 2}, {"0": "dense.0", "2": "norm.0", "3": "out"}),
        ("causal_lm", {"layers": 3, "layer_norm": False}, {"0": "dense.0", "2": "dense.1", "4": "out"}),
        ("causal_lm", {"layers": 2, "activation": None}, {"0": "dense.0", "1": "norm.0", "2": "out"}),
    ],
)
def test_adapterhub_indices(kind: str, options: dict[str, Any], expected: dict[str, str]) -> None:
    assert from_adapterhub_index(make_head_config(kind, **options)) == expected
