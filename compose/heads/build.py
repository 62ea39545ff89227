"""Heads from their configs: the table of modules, one row for each kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from compose.heads.causal_lm import CausalLMHead
from compose.heads.classification import ClassificationHead
from compose.heads.custom import CustomHead
from compose.heads.head import Head, Host
from compose.heads.masked_lm import MaskedLMHead
from compose.heads.question_answering import QuestionAnsweringHead
from compose.heads.spec import HeadConfig, make_head_config
from compose.heads.tagging import TaggingHead

HEADS: Mapping[str, Callable[[str, Any, Host], Head]] = {
    "classification": ClassificationHead,
    "tagging": TaggingHead,
    "question_answering": QuestionAnsweringHead,
    "causal_lm": CausalLMHead,
    "masked_lm": MaskedLMHead,
}


def build_head(name: str, kind: str | HeadConfig | nn.Module, host: Host, **options: object) -> Head:
    """A fresh head.

    Args:
        name: its name.
        kind: a kind in `KINDS`, a config, or any module.
        host: what it takes from the backbone.
        options: those of the kind.

    Raises:
        ConfigError: the kind or its options are unknown or out of range.
    """
    if isinstance(kind, Head):
        return kind
    if isinstance(kind, nn.Module):
        return CustomHead(name, kind)
    config = make_head_config(kind, **options)
    return HEADS[config.kind](name, config, host)
