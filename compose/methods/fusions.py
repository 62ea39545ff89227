"""The kinds of fusion: from a preset's or kind's name and some options to a checked config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compose.errors import ConfigError
from compose.methods.fusion.spec import FusionConfig, FusionOptions
from compose.methods.presets import Preset
from compose.methods.scalearn.spec import ScaLearnConfig

FUSION_METHODS: Mapping[str, type[FusionOptions]] = {config.method: config for config in (FusionConfig, ScaLearnConfig)}

STATIC: Mapping[str, Any] = {"value": False, "regularization": False, "value_initialized": False}
FUSION_PRESETS: Mapping[str, Preset] = {
    "dynamic": Preset("adapter_fusion", {}, "attention with a value matrix (Pfeiffer et al., 2021)"),
    "static": Preset("adapter_fusion", STATIC, "attention without a value matrix"),
    "scalearn": Preset("scalearn", {}, "a scale for each element of a child's increment (Frohmann et al., 2024)"),
    "scalearn_uniform": Preset("scalearn", {"uniform": True}, "a scale for each child"),
    "scalearn++": Preset("scalearn", {"shared": True}, "scalearn with the same scales in all layers"),
    "scalearn_uniform++": Preset(
        "scalearn", {"uniform": True, "shared": True, "dropout": 0.0}, "one scale for each child in the whole backbone"
    ),
}


def make_fusion_config(config: str | FusionOptions = "dynamic", **overrides: Any) -> FusionOptions:
    """A fusion's config from a preset or another config, with some options changed.

    Args:
        config: the name of a preset (`dynamic`, `static`, `scalearn`, ...), or a config.
        **overrides: options that differ.

    Raises:
        ConfigError: naming everything that is unknown or out of range.

    >>> make_fusion_config("scalearn_uniform", dropout=0.1).to_dict()
    {'uniform': True, 'shared': False, 'dropout': 0.1, 'init_scale': 2.0}
    """
    if isinstance(config, FusionOptions):
        return config.make({**config.to_dict(), **overrides})
    if config not in FUSION_PRESETS:
        raise ConfigError(f"there is no fusion preset {config!r}", got=str(config), legal=tuple(FUSION_PRESETS))
    preset = FUSION_PRESETS[config]
    return FUSION_METHODS[preset.method].make({**preset.options, **overrides})


def fusion_config_from_dict(method: str, options: Mapping[str, Any]) -> FusionOptions:
    """The config of a kind of fusion from what its `to_dict` gave.

    Raises:
        ConfigError: for an unknown kind, and for every unknown option and illegal value.
    """
    if method not in FUSION_METHODS:
        raise ConfigError(f"there is no kind of fusion {method!r}", got=str(method), legal=tuple(FUSION_METHODS))
    return FUSION_METHODS[method].make(options)
