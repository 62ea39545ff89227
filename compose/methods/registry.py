"""From a method's or preset's name and some options to a checked config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from compose.errors import ConfigError, Problem
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
from compose.methods.union.spec import UnionConfig
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
        UnionConfig,
        AggregationConfig,
    )
}


def make_config(config: str | Config | Sequence[Any], **overrides: Any) -> Config:
    """A config from a preset, a method or another config, with some options changed.

    Args:
        config: the name of a preset or of a method, or a config; or a list of such, which makes a union.
        **overrides: options that differ.

    Raises:
        ConfigError: naming everything that is unknown or out of range.

    >>> make_config("seq_bn", reduction_factor=8).reduction_factor
    8.0
    """
    if not isinstance(config, str | Config | list | tuple):
        what = f"a method is a name, a config or a list of them, not a {type(config).__name__}"
        raise ConfigError(what, hint="'lora' with its options, or ['lora', {'method': 'seq_bn'}]")
    if not isinstance(config, str | Config):
        return _made(UnionConfig, {"configs": config, **overrides})
    preset = None if isinstance(config, Config) else PRESETS.get(config)
    kind = type(config) if isinstance(config, Config) else METHODS.get(preset.method if preset else config)
    for names in kind.alternatives if kind else ():
        if all(overrides.get(name) is not None for name in names):
            raise ConfigError(f"{' and '.join(names)} say the same thing in two ways", hint=f"only {names[-1]}")
    if isinstance(config, Config):
        return _made(type(config), {**config.to_dict(), **overrides})
    if preset is not None:
        return _made(METHODS[preset.method], {**preset.options, **overrides})
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
    return _made(METHODS[method], options)


def _made(kind: type[Config], options: Mapping[str, Any]) -> Config:
    """A config from options; the members of a union may be names and mappings."""
    if kind is UnionConfig and isinstance(options.get("configs"), list | tuple):
        options = {**options, "configs": _members(options["configs"])}
    return kind.make(options)


def _preset(name: str, options: Mapping[str, Any]) -> Config:
    return make_config(name, **options)


def _members(given: Sequence[Any]) -> list[Any]:
    """The configs of a union's members: each a config, a name, or a mapping with `method` and options.

    Raises:
        ConfigError: with the problems of all members.
    """
    made: list[Any] = []
    problems: list[Problem] = []
    for number, one in enumerate(given):
        where = f"configs[{number}]"
        named = isinstance(one, Mapping) and isinstance(one.get("method"), str)
        if not named and not isinstance(one, str | Config):
            problems.append(Problem("not a method", where=where, hint="{'method': 'lora', 'r': 4}, or 'lora'"))
            continue
        try:
            options = {name: value for name, value in one.items() if name != "method"} if named else {}
            # all options of a method are what `to_dict` gave; some presets have a method's name
            whole = named and options.keys() == METHODS.get(one["method"], UnionConfig).options().keys()
            make = config_from_dict if whole else _preset
            made.append(make(one["method"], options) if named else make_config(one))
        except ConfigError as error:
            problems += [replace(problem, where=f"{where}, {problem.where}".rstrip(", ")) for problem in error.problems]
    if problems:
        raise ConfigError(problems)
    return made
