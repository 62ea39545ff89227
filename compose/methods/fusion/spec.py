"""The options of a fusion."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from compose.errors import ConfigError
from compose.methods.config import FLAG, PROBABILITY, Option, Options, option
from compose.specs import FusionSpec

OPTIONAL_PROBABILITY = Option(
    lambda value: value is None or PROBABILITY.accepts(value),
    "a number from 0 to below 1, or None",
    normal=lambda value: None if value is None else float(value),
)


@dataclass(frozen=True)
class FusionConfig(Options):
    """Options of a fusion; the names are AdapterHub's.

    Args:
        key, query, value: which of the three matrices it has; the identity stands for the others.
        query_before_ln: the query is the value before the LayerNorm, not after it.
        regularization: add the value matrix's distance from the identity to the loss.
        residual_before: add the residual to every candidate, rather than to the mixture.
        temperature: divide the scores by a temperature that falls from 50 to 1 in training.
        value_before_softmax: apply the value matrix to each candidate rather than to the mixture:
            an order of computation that changes no result, kept because files have it.
        value_initialized: start the value matrix at the identity (1e-6 off the diagonal).
        dropout_prob: on the scores; None: as the backbone's attention.

    Raises:
        ConfigError: with a problem for every option that is out of range.
    """

    method: ClassVar[str] = "fusion"

    key: bool = option(True, FLAG)
    query: bool = option(True, FLAG)
    value: bool = option(True, FLAG)
    query_before_ln: bool = option(False, FLAG)
    regularization: bool = option(True, FLAG)
    residual_before: bool = option(False, FLAG)
    temperature: bool = option(False, FLAG)
    value_before_softmax: bool = option(True, FLAG)
    value_initialized: bool = option(True, FLAG)
    dropout_prob: float | None = option(None, OPTIONAL_PROBABILITY)

    def describe(self, name: str, sites: Iterable[tuple[int, str]]) -> FusionSpec:
        """What the compiler knows of a fusion of this config.

        Args:
            name: its own name.
            sites: the (layer, site) pairs at which it has weights.
        """
        return FusionSpec(name, frozenset(sites), query=self.query, key=self.key, value=self.value)


FUSION_PRESETS: Mapping[str, Mapping[str, Any]] = {
    "dynamic": {},
    "static": {"value": False, "regularization": False, "value_initialized": False},
}


def make_fusion_config(config: str | FusionConfig = "dynamic", **overrides: Any) -> FusionConfig:
    """A fusion's config from a preset or another config, with some options changed.

    Args:
        config: `dynamic` (with a value matrix), `static` (without), or a config.
        **overrides: options that differ.

    Raises:
        ConfigError: naming everything that is unknown or out of range.
    """
    if isinstance(config, FusionConfig):
        return FusionConfig.make({**config.to_dict(), **overrides})
    if config not in FUSION_PRESETS:
        raise ConfigError(f"there is no fusion preset {config!r}", got=str(config), legal=tuple(FUSION_PRESETS))
    return FusionConfig.make({**FUSION_PRESETS[config], **overrides})
