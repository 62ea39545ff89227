"""AdapterHub's configs as ours: what is read, what is refused, and what old versions meant."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from compose.dsl.names import shorten
from compose.errors import ComposeError, FileError, Problem
from compose.heads.adapterhub import HEAD_TYPES, from_adapterhub_config
from compose.heads.spec import HeadConfig
from compose.io.adapterhub.keys import ArchitectureKeys
from compose.io.records import as_file_error
from compose.methods.bottleneck.spec import BottleneckConfig
from compose.methods.config import Config
from compose.methods.fusion.spec import FusionConfig, make_fusion_config
from compose.methods.lora.spec import LoraConfig
from compose.methods.prompt_tuning.spec import PromptTuningConfig
from compose.methods.registry import make_config

Made = TypeVar("Made")

_PHM = (
    "phm_dim", "factorized_phm_W", "shared_W_phm", "shared_phm_rule", "factorized_phm_rule", "phm_c_init",
    "phm_init_range", "learn_phm", "hypercomplex_nonlinearity", "phm_rank", "phm_bias",
)  # fmt: skip
"""Options of PHM layers: they mean nothing where `phm_layer` is off."""

_ACTIVATIONS = {"gelu": "gelu_new", "gelu_orig": "gelu"}
"""What activations were called before files had a version."""

_METHODS = {
    "prefix_tuning": "prefix tuning",
    "reft": "ReFT",
    "union": "a union of methods",
    "mtl_lora": "MTL-LoRA",
}


class Refusal(NamedTuple):
    """An option that is not read: when it is in use, and what it is called."""

    option: str
    used: Callable[[Any], bool]
    feature: str


_BOTTLENECK_REFUSED = (
    Refusal("phm_layer", bool, "PHM layers (Compacter)"),
    Refusal("new_attention_norm", bool, "a new LayerNorm after the attention"),
)
_LORA_REFUSED = (
    Refusal("composition_mode", lambda value: value != "add", "IA3 (composition_mode 'scale')"),
    Refusal("vera_d", lambda value: value is not None, "VeRA"),
    Refusal("vera_b", lambda value: value is not None, "VeRA"),
    Refusal("use_dora", bool, "DoRA"),
    Refusal(
        "init_weights",
        lambda value: value not in ("lora", "bert"),
        "init_weights other than 'lora' and 'bert'",
    ),
)
_DTYPES = (None, "float32", "float64", "float16", "bfloat16")


def adapter_config(content: Mapping[str, Any], keys: ArchitectureKeys, parts: frozenset[str], where: str) -> Config:
    """Our config of an adapter.

    Args:
        content: what `adapter_config.json` holds.
        keys: the table of the architecture.
        parts: all parts, between dots, of the keys of its weights.
        where: the path of the file.

    Raises:
        FileError: an option that is not known, not legal or not supported; all of them at once.
    """
    config = content.get("config")
    if isinstance(config, str):  # the name of a preset, in files written by hand
        with_preset = config
        return _made(lambda: make_config(with_preset), where)
    if not isinstance(config, dict):
        raise FileError("'config' is not an object", where=where, why="it must hold the options of the method")
    architecture = config.get("architecture")
    if isinstance(architecture, str) and architecture in _METHODS:
        raise FileError(f"{_METHODS[architecture]} is not supported yet", where=where)
    if architecture not in (None, "bottleneck", "lora", "prompt_tuning"):
        raise FileError(
            f"there is no architecture {shorten(architecture)}",
            where=where,
            got=str(architecture)[:64],
            legal=("bottleneck", "lora", "prompt_tuning"),
        )
    options = {name: value for name, value in config.items() if name != "architecture"}
    if architecture == "prompt_tuning":
        encoder = all(stack.stack == "encoder" for stack in keys.stacks)
        return _made(lambda: PromptTuningConfig.make({**options, "adapterhub_mask": encoder}), where)
    if architecture == "lora":
        return _lora(options, content, keys, parts, where)
    return _bottleneck(options, content, parts, where)


def fusion_config(content: Mapping[str, Any], where: str) -> FusionConfig:
    """Our config of a fusion."""
    config = content.get("config")
    if isinstance(config, str):
        preset = config
        return _made(lambda: make_fusion_config(preset), where)
    if not isinstance(config, dict):
        raise FileError("'config' is not an object", where=where, why="it must hold the options of the fusion")
    return _made(lambda: FusionConfig.make(config), where)


def head_config(content: Mapping[str, Any], architecture: str, where: str) -> HeadConfig:
    """Our config of a head.

    Raises:
        FileError: a head type that is not read, or an option that is not known or not legal.
    """
    config = content.get("config")
    if config is None:
        raise FileError(
            f"the head of a {content.get('model_class', 'transformers')} model is not supported yet",
            where=where,
            why="it has no config of its own",
            hint="with_head=False",
        )
    if not isinstance(config, dict):
        raise FileError("'config' is not an object", where=where)
    row = HEAD_TYPES.get(str(config.get("head_type")))
    if row is None:
        raise FileError(
            f"heads of type {config.get('head_type')!r} are not supported yet",
            where=where,
            got=str(config.get("head_type")),
            legal=tuple(HEAD_TYPES),
            hint="with_head=False" if "head_type" in config else "",
        )
    read = {"head_type", "num_labels", "label2id", "multilabel", *row.options}
    problems = [
        Problem(f"the option '{name}' of {config['head_type']} heads is not known", where=where, legal=tuple(read))
        for name, value in config.items()
        if name not in read and value is not None and name != "dropout_prob"  # its language heads have no dropout
    ]
    if problems:
        raise FileError(problems)
    return _made(lambda: from_adapterhub_config(config, architecture), where)


def _bottleneck(options: dict[str, Any], content: Mapping[str, Any], parts: frozenset[str], where: str) -> Config:
    old = options.pop("invertible_adapter", None)
    if isinstance(old, dict) and not options.get("inv_adapter"):
        options["inv_adapter"] = old.get("block_type")
        options["inv_adapter_reduction_factor"] = old.get("reduction_factor")
    unversioned = "version" not in content
    inverted = {"invertible_adapters", "invertible_lang_adapters"} & parts
    if (unversioned or content.get("type") == "text_task") and not inverted:
        # Old task adapters declare an invertible part that only language adapters had.
        options.pop("inv_adapter", None)
    if unversioned and isinstance(options.get("non_linearity"), str):
        options["non_linearity"] = _ACTIVATIONS.get(options["non_linearity"], options["non_linearity"])
    needed = ("mh_adapter", "output_adapter", "reduction_factor", "non_linearity")
    problems = [Problem(f"the option '{name}' is missing", where=where) for name in needed if name not in options]
    problems += _refusals(options, _BOTTLENECK_REFUSED, where)
    if problems:
        raise FileError(problems)
    inert = (
        *_PHM,
        "phm_layer",
        "new_attention_norm",
        "attention_type",
        *(("inv_adapter_reduction_factor",) if options.get("inv_adapter_reduction_factor") is None else ()),
    )
    kept = {name: value for name, value in options.items() if name not in inert}
    return _made(lambda: BottleneckConfig.make(kept), where)


def _lora(
    options: dict[str, Any],
    content: Mapping[str, Any],
    keys: ArchitectureKeys,
    parts: frozenset[str],
    where: str,
) -> Config:
    problems = _refusals(options, _LORA_REFUSED, where)
    if options.get("dtype") not in _DTYPES:
        problems.append(Problem(f"dtype {options['dtype']!r} is not one of floating numbers", where=where))
    if problems:
        raise FileError(problems)
    inert = ("composition_mode", "vera_d", "vera_b", "use_dora", "dtype")
    kept = {name: value for name, value in options.items() if name not in inert}
    if _before(content.get("version"), (1, 1)) and "r" in kept:
        kept["alpha"] = kept["r"]  # the scaling of these versions was 1 whatever alpha said
    matrices = kept.get("attn_matrices")
    if isinstance(matrices, list) and "o" in matrices:
        # It adapts no output projection on these architectures, whatever the option says.
        kept["attn_matrices"] = [matrix for matrix in matrices if matrix != "o"]
    if keys.feed_forward_swapped:
        first, last = kept.get("intermediate_lora", False), kept.get("output_lora", False)
        kept |= {"intermediate_lora": last, "output_lora": first}
    return _made(lambda: LoraConfig.make(kept), where)


def _refusals(options: Mapping[str, Any], rows: tuple[Refusal, ...], where: str) -> list[Problem]:
    features = dict.fromkeys(row.feature for row in rows if row.option in options and row.used(options[row.option]))
    return [Problem(f"{feature}: not supported yet", where=where) for feature in features]


def _before(version: object, limit: tuple[int, ...]) -> bool:
    """Whether a version such as `adapters.1.0.1` is before a limit; those of other programs are not."""
    if not isinstance(version, str) or not version.startswith("adapters."):
        return False
    numbers = []
    for part in version.removeprefix("adapters.").split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
    return bool(numbers) and tuple(numbers) < limit


def _made(make: Callable[[], Made], where: str) -> Made:
    try:
        return make()
    except ComposeError as error:
        raise as_file_error(error, where) from error
