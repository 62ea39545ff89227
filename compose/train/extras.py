"""Packages that only training and reports need: imported when they are, with a clear error if not there."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from compose.errors import ConfigError


def require(module: str) -> Any:
    """A module of a package that an extra brings.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return import_module(module)
    except ImportError:
        package = module.split(".")[0].replace("sklearn", "scikit-learn")
        raise ConfigError(
            f"{package} is not installed, which training and its reports need",
            hint="pip install 'compose-adapters[train]'",
        ) from None
