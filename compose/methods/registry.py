"""From a method's or preset's name and some options to a checked config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compose.errors import ConfigError
from compose.methods.aggregation.spec import AggregationConfig
from compose.methods.bitfit.spec import BitFitConfig
from compose.methods.bottleneck.spec import BottleneckConfig
from compose.methods.compacter.spec import CompacterConfig
from compose.methods.config import Config
from compose.methods.dora.spec import DoraConfig, DvoraConfig
from compose.methods.ia3.spec import Ia3Config
from compose.methods.lora.spec import LoraConfig
from compose.methods.mtl_lora.spec import MtlLoraConfig
from compose.methods.prefix.spec import PrefixConfig
from compose.methods.presets import PRESETS
from compose.methods.prompt_tuning.spec import PromptTuningConfig
from compose.methods.reft.spec import ReftConfig
from compose.methods.vera.spec import VeraConfig

METHODS: Mapping[str, type[Config]] = {
    config.method: config
    for config in (
        BottleneckConfig,
        CompacterConfig,
        BitFitConfig,
        LoraConfig,
        Ia3Config,
        DoraConfig,
        VeraConfig,
        DvoraConfig,
        MtlLoraConfig,
        ReftConfig,
        PromptTuningConfig,
        PrefixConfig,
        AggregationConfig,
    )
}


def make_config(config: str | Config, **overrides: Any) -> Config:
    """A config from a preset, a method or another config, with some options changed.

    Args:
        config: the name of a preset or of a method, or a config.
        **overrides: options that differ.

    Raises:
        ConfigError: naming everything that is unknown or out of range.

    >>> make_config("seq_bn", reduction_factor=8).reduction_factor
    8.0
    """
    preset = None if isinstance(config, Config) else PRESETS.get(config)
    kind = type(config) if isinstance(config, Config) else METHODS.get(preset.method if preset else config)
    for names in kind.alternatives if kind else ():
        if all(overrides.get(name) is not None for name in names):
            raise ConfigError(f"{' and '.join(names)} say the same thing in two ways", hint=f"only {names[-1]}")
    if isinstance(config, Config):
        return config.make({**config.to_dict(), **overrides})
    if preset is not None:
        return METHODS[preset.method].make({**preset.options, **overrides})
    return config_from_dict(config, overrides)


def config_from_dict(method: str, options: Mapping[str, Any]) -> Config:
    """The config of a method from what its `to_dict` gave.

    Raises:
        ConfigError: for an unknown method, and for every unknown option and illegal value.
    """
    if method not in METHODS:
        raise ConfigError(
            f"there is no method or preset {method!r}",
            got=str(method),
            legal=tuple(dict.fromkeys((*PRESETS, *METHODS))),
        )
    return METHODS[method].make(options)
