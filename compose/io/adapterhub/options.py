"""Our configs as AdapterHub's: what cannot be said there is an error, never left out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from compose.errors import ComposeError, FileError, Problem
from compose.io.adapterhub.configs import adapter_config
from compose.io.adapterhub.keys import ArchitectureKeys
from compose.methods.bottleneck.spec import BottleneckConfig
from compose.methods.compacter.spec import CompacterConfig
from compose.methods.config import Config
from compose.methods.dora.spec import DoraConfig, DvoraConfig
from compose.methods.linear.spec import LinearConfig, LowRankConfig
from compose.methods.prefix.spec import PrefixConfig
from compose.methods.prompt_tuning.spec import PromptTuningConfig
from compose.methods.reft.spec import ReftConfig
from compose.methods.union.spec import UnionConfig
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
    if isinstance(config, UnionConfig):
        return {
            "architecture": "union",
            "configs": [adapterhub_options(member, keys, backbone, what) for member in config.members],
        }
    if config.method not in WRITERS:
        raise FileError(
            f"{what}: AdapterHub's format has no '{config.method}'",
            got=config.method,
            legal=tuple(WRITERS),
            hint="the native format",
        )
    plain = PLAIN_FORMS.get(config.method, lambda config, _: config)(config, backbone)
    options = WRITERS[config.method](plain, keys)
    # A ReFT adapter whose file does not say it has its projection subtracted: so AdapterHub reads it.
    unsaid = True if isinstance(config, ReftConfig) else None
    try:
        found = adapter_config({"config": options, "version": VERSION}, keys, frozenset(), what, unsaid).to_dict()
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
    if config.inv_adapter is None:  # what its factor would be is not said
        config = replace(config, inv_adapter_reduction_factor=config.defaults()["inv_adapter_reduction_factor"])
    if config.bottleneck_size is None:
        return config
    width, size = backbone.hidden_size, config.bottleneck_size
    factor = width // size if width % size == 0 else width / (size + 0.5)  # far from where rounding could matter
    return replace(config, bottleneck_size=None, reduction_factor=factor)


def _plain_linear(config: LinearConfig, backbone: BackboneSpec) -> LinearConfig:
    """Cross-attention goes with self-attention there: that is None here, and anything where there is none."""
    crossing = any("cross.attn" in layer.sites for layer in backbone.layers)
    same = not crossing or config.crossattn_lora == config.selfattn_lora
    return replace(config, crossattn_lora=None) if same else config


def _plain_low_rank(config: LowRankConfig, backbone: BackboneSpec) -> LinearConfig:
    """Besides, a scaling is said as the alpha that gives it: theirs is alpha / r."""
    alpha = config.alpha * (math.sqrt(config.r) if config.use_rslora else 1)
    return _plain_linear(replace(config, alpha=alpha, use_rslora=False), backbone)


def _plain_dora(config: DoraConfig | DvoraConfig, backbone: BackboneSpec) -> LinearConfig:
    """Besides, how the norm and the bias are meant makes no difference where the scale is 1, or no map has a bias."""
    norm = config.scaled_norm and config.scale != 1
    sites = (layer.sites[site] for layer in backbone.layers for site in config.sites() if site in layer.sites)
    bias = config.scaled_bias or not any(site.bias for site in sites)
    return _plain_low_rank(replace(config, scaled_norm=norm, scaled_bias=bias), backbone)


PLAIN_FORMS: Mapping[str, Callable[[Any, BackboneSpec], Config]] = {
    "bottleneck": _plain_bottleneck,
    "compacter": _plain_bottleneck,
    "lora": _plain_low_rank,
    "ia3": _plain_linear,
    "dora": _plain_dora,
    "vera": _plain_low_rank,
    "dvora": _plain_dora,
    "mtl_lora": _plain_low_rank,
}
"""By method: the same config without options that are ours alone, where others say the same on this backbone."""


def _bottleneck(config: BottleneckConfig, keys: ArchitectureKeys) -> dict[str, Any]:
    options = _without(config, "bottleneck_size", "bottleneck_sizes", "residual")
    options["reduction_factor"] = _whole(options["reduction_factor"])
    return options if config.inv_adapter else {**options, "inv_adapter_reduction_factor": None}


def _whole(factor: Any) -> Any:
    """Whole numbers as such: AdapterHub makes sizes of them."""
    if isinstance(factor, Mapping):
        return {layer: _whole(own) for layer, own in factor.items()}
    return int(factor) if factor == int(factor) else factor


def _compacter(config: CompacterConfig, keys: ArchitectureKeys) -> dict[str, Any]:
    return {**_bottleneck(config, keys), "phm_layer": True}


def _linear(config: LinearConfig, keys: ArchitectureKeys) -> dict[str, Any]:
    options = {**_TOLD["lora"], **_TOLD[config.method], **_without(config, "crossattn_lora", *_LINEAR_OURS)}
    if keys.feed_forward_swapped:
        options |= {"intermediate_lora": config.output_lora, "output_lora": config.intermediate_lora}
    return {"architecture": "lora", **options}


_TOLD: Mapping[str, Mapping[str, Any]] = {
    "lora": {"composition_mode": "add", "use_dora": False, "vera_d": None, "vera_b": None, "dtype": None},
    "mtl_lora": {"architecture": "mtl_lora"},
    "ia3": {"composition_mode": "scale", "r": 1, "dropout": 0.0, "init_weights": "ia3"},
    "dora": {"use_dora": True},
    "vera": {"init_weights": "vera"},
    "dvora": {"init_weights": "vera", "use_dora": True},
}
"""What tells the methods apart that are all its LoRA."""

_LINEAR_OURS = ("use_rslora", "scaled_norm", "scaled_bias", "square", "stacked")
"""Options that its LoRA lacks; where they are not as it computes, `adapterhub_options` finds them lost."""


def _reft(config: ReftConfig, keys: ArchitectureKeys) -> dict[str, Any]:
    # Its files never say `subtract_projection`.
    told = {"architecture": "reft", "output_reft": True, "dtype": None}
    return {**_without(config, "subtract_projection"), **told}


def _prompt_tuning(config: PromptTuningConfig, keys: ArchitectureKeys) -> dict[str, Any]:
    return {**_without(config, "adapterhub_mask", "as_words", "random_uniform_scale"), "architecture": "prompt_tuning"}


def _prefix_tuning(config: PrefixConfig, keys: ArchitectureKeys) -> dict[str, Any]:
    return {**_without(config, "counted"), "architecture": "prefix_tuning"}


WRITERS: Mapping[str, Writer] = {
    "bottleneck": _bottleneck,
    "compacter": _compacter,
    **dict.fromkeys(("lora", "ia3", "dora", "vera", "dvora", "mtl_lora"), _linear),
    "reft": _reft,
    "prompt_tuning": _prompt_tuning,
    "prefix_tuning": _prefix_tuning,
}
"""By method: all of AdapterHub's options that `configs.py` reads."""


def _without(config: Config, *names: str) -> dict[str, Any]:
    return {name: value for name, value in config.to_dict().items() if name not in names}
