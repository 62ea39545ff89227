"""Backbones with random weights, made from a configuration: to be trained on the spot, or to try something out."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from compose.backbones.resolve import TABLES
from compose.errors import BackboneError, ConfigError, Problem
from compose.runtime.attach import attach
from compose.runtime.model import Model


def random_backbone(
    architecture: str,
    config: Mapping[str, Any] | None = None,
    seed: int = 0,
    *,
    tokenizer: Any = None,
    precision: str | None = None,
    dtype: torch.dtype | None = None,
) -> Model:
    """A model over a backbone with random weights; no file is read, and nothing else than its own code runs.

    Args:
        architecture: transformers' `model_type`, one that compose knows.
        config: what differs from the architecture's defaults, as transformers' configuration calls it.
        seed: of the weights; the random numbers of others are left alone.
        tokenizer: turns text into inputs, where the backbone reads texts.
        precision: what the backbone computes in, `float32` or `bf16`.
        dtype: the type of its weights, in place of a precision.

    Raises:
        ConfigError: everything that is wrong with the architecture's name or the config.
        BackboneError: no such backbone can be made.
    """
    from transformers import AutoModel

    made = random_config(architecture, config or {})
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            backbone = AutoModel.from_config(made)
    except (ValueError, TypeError, RuntimeError, ArithmeticError, LookupError) as error:
        raise BackboneError(f"no '{architecture}' can be made of this config", why=_first_line(error)) from error
    backbone.eval()
    return attach(backbone if dtype is None else backbone.to(dtype), tokenizer, precision=precision)


def random_config(architecture: str, config: Mapping[str, Any]) -> Any:
    """The configuration of a random backbone.

    Args:
        architecture: one that compose knows.
        config: what differs from its defaults.

    Raises:
        ConfigError: everything that is wrong.
    """
    from transformers import AutoConfig, PreTrainedConfig

    if architecture not in TABLES:
        raise ConfigError(
            f"there is no architecture '{architecture}' to make a backbone of", got=architecture, legal=tuple(TABLES)
        )
    plain = AutoConfig.for_model(architecture)
    shared = set(_options(PreTrainedConfig))
    legal = tuple(name for name in (*_options(type(plain)), *plain.attribute_map) if name not in shared)
    problems = [
        Problem(f"config: '{architecture}' has no '{key}'", got=key, legal=legal) for key in config if key not in legal
    ]
    if not problems:
        problems = list(_wrong_values(plain, config))
    if problems:
        raise ConfigError(problems)
    return AutoConfig.for_model(architecture, **config)


def _wrong_values(plain: Any, config: Mapping[str, Any]) -> Iterator[Problem]:
    """Values of another type than transformers declares, or that no backbone can have."""
    for key, value in config.items():
        try:
            type(plain)(**{key: value})
        except (ValueError, TypeError) as error:
            yield Problem(f"config.{key}: {_first_line(error)}")
        except Exception as error:  # its validation raises a kind of its own, which names the field's type
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            yield Problem(f"config.{key} cannot be {value!r}", why=lines[-1] if lines else type(error).__name__)
        else:
            size = type(getattr(plain, key)) is int and "token_id" not in key
            if size and type(value) is int and value < 1:
                yield Problem(f"config.{key} is {value}, but a number of at least 1 is needed")


def _options(config: type) -> list[str]:
    parameters = inspect.signature(config).parameters.values()
    return [each.name for each in parameters if each.kind is not each.VAR_KEYWORD]


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
