"""Who is told of losses and scores while training: loggers by the names that transformers' Trainer has for them."""

from __future__ import annotations

from collections.abc import Sequence

from transformers.integrations import get_available_reporting_integrations
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from compose.errors import ConfigError, Problem

TENSORBOARD = "tensorboard"


def check_loggers(names: Sequence[str]) -> None:
    """Refuses loggers that there are not, or that are not installed.

    Raises:
        ConfigError: names all of them.
    """
    legal = tuple(INTEGRATION_TO_CALLBACK)
    there = get_available_reporting_integrations()
    unknown = [name for name in names if name not in legal]
    missing = [name for name in names if name in legal and name not in there]
    problems = [Problem(f"there is no logger '{name}'", got=name, legal=legal) for name in unknown]
    problems += [Problem(f"{name} is not installed", hint=f"pip install {name}") for name in missing]
    if problems:
        raise ConfigError(problems)
