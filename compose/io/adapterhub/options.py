"""Our configs as AdapterHub's: what cannot be said there is an error, never left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from compose.errors import ComposeError, FileError, Problem
from compose.io.adapterhub.configs import adapter_config
from compose.io.adapterhub.keys import ArchitectureKeys
from compose.methods.bottleneck.spec import BottleneckConfig
from compose.methods.config import Config
from compose.methods.lora.spec import LoraConfig
from compose.specs import BackboneSpec

VERSION = "adapters.1.3.0"
"""The version whose format is written."""

Writer = Callable[[Any, ArchitectureKeys], dict[str, Any]]


def adapterhub_options(config: Config, keys: ArchitectureKeys, backbone: BackboneSpec, what: str) -> dict[str, Any]:
    """The `config` of `adapter_config.json`.

    What is written is read again, so that an option that the format lacks cannot get lost.

    Args:
        config: the adapter's.
        keys: the table of the architecture.
        backbone: the backbone's spec.
        what: what errors call the adapter.

    Raises:
        FileError: a method or options that AdapterHub's format cannot say.
    """
    if config.method not in WRITERS:
        raise FileError(
            f"{what}: AdapterHub's format has no '{config.method}'",
            got=config.method,
            legal=tuple(WRITERS),
            hint="the native format",
        )
    plain = PLAIN_FORMS.get(config.method, lambda config, _: config)(config, backbone)
    options = WRITERS[config.method](plain, keys)
    try:
        found = adapter_config({"config": options, "version": VERSION}, keys, frozenset(), what).to_dict()
    except ComposeError:
        found = {}
    problems = lost_options(plain.to_dict(), found, what)
    if problems:
        raise FileError(problems)
    return options


def lost_options(wanted: Mapping[str, Any], found: Mapping[str, Any], what: str) -> list[Problem]:
    """A problem for every option that would come back as another."""
    return [
        Problem(f"{what}: AdapterHub's format cannot say {name}={value!r}", hint="the native format")
        for name, value in wanted.items()
        if name not in found or found[name] != value
    ]


def _plain_bottleneck(config: BottleneckConfig, backbone: BackboneSpec) -> BottleneckConfig:
    """A width is said as the factor that gives it: theirs is width // factor."""
    if config.bottleneck_size is None:
        return config
    width, size = backbone.hidden_size, config.bottleneck_size
    factor = width // size if width % size == 0 else width / (size + 0.5)  # far from where rounding could matter
    return replace(config, bottleneck_size=None, reduction_factor=factor)


def _plain_lora(config: LoraConfig, backbone: BackboneSpec) -> LoraConfig:
    """Cross-attention goes with self-attention there: that is None here, and anything where there is none."""
    crossing = any("cross.attn" in layer.sites for layer in backbone.layers)
    same = not crossing or config.crossattn_lora == config.selfattn_lora
    return replace(config, crossattn_lora=None) if same else config


PLAIN_FORMS: Mapping[str, Callable[[Any, BackboneSpec], Config]] = {
    "bottleneck": _plain_bottleneck,
    "lora": _plain_lora,
}
"""By method: the same config without options that are ours alone, where others say the same on this backbone."""


def _bottleneck(config: BottleneckConfig, keys: ArchitectureKeys) -> dict[str, Any]:
    return _without(config, "bottleneck_size", "residual")


def _lora(config: LoraConfig, keys: ArchitectureKeys) -> dict[str, Any]:
    options = _without(config, "crossattn_lora")
    if keys.feed_forward_swapped:
        options |= {"intermediate_lora": config.output_lora, "output_lora": config.intermediate_lora}
    told_apart = {"composition_mode": "add", "use_dora": False, "vera_d": None, "vera_b": None, "dtype": None}
    return {**options, **told_apart, "architecture": "lora"}


WRITERS: Mapping[str, Writer] = {"bottleneck": _bottleneck, "lora": _lora}
"""By method: all of AdapterHub's options that `configs.py` reads."""


def _without(config: Config, *names: str) -> dict[str, Any]:
    return {name: value for name, value in config.to_dict().items() if name not in names}
