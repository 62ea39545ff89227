"""AdapterHub's configs as ours: what is read, what is refused, and what old versions meant."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from compose.dsl.names import shorten
from compose.errors import ComposeError, FileError, Problem
from compose.heads.adapterhub import HEAD_TYPES, from_adapterhub_config
from compose.heads.spec import HeadConfig
from compose.io.adapterhub.keys import ArchitectureKeys
from compose.io.adapterhub.reft import check_unasked, reft_config
from compose.io.records import as_file_error
from compose.methods.bottleneck.spec import BottleneckConfig
from compose.methods.compacter.spec import CompacterConfig
from compose.methods.config import Config
from compose.methods.fusion.spec import FusionConfig
from compose.methods.fusions import make_fusion_config
from compose.methods.prefix.spec import PrefixConfig
from compose.methods.prompt_tuning.spec import PromptTuningConfig
from compose.methods.registry import METHODS, make_config
from compose.methods.union.spec import UnionConfig

Made = TypeVar("Made")

_PHM = (
    "phm_dim", "factorized_phm_W", "shared_W_phm", "shared_phm_rule", "factorized_phm_rule", "phm_c_init",
    "phm_init_range", "learn_phm", "hypercomplex_nonlinearity", "phm_rank", "phm_bias",
)  # fmt: skip
"""Options of PHM layers: they mean nothing where `phm_layer` is off."""

_ACTIVATIONS = {"gelu": "gelu_new", "gelu_orig": "gelu"}
"""What activations were called before files had a version."""

_ARCHITECTURES = ("bottleneck", "lora", "mtl_lora", "prefix_tuning", "prompt_tuning", "reft", "union")


class Refusal(NamedTuple):
    """An option that is not read: when it is in use, and what it is called."""

    option: str
    used: Callable[[Any], bool]
    feature: str


_BOTTLENECK_REFUSED = (Refusal("new_attention_norm", bool, "a new LayerNorm after the attention"),)
_COMPOSITION = Refusal(
    "composition_mode", lambda value: value not in ("add", "scale"), "composition_mode other than 'add' and 'scale'"
)
_LORA_REFUSED: Mapping[str, tuple[Refusal, ...]] = {
    "ia3": (
        Refusal("r", lambda value: value != 1, "IA3 (composition_mode 'scale') of a rank other than 1"),
        Refusal("dropout", bool, "IA3 (composition_mode 'scale') with dropout"),
        Refusal("use_dora", bool, "IA3 (composition_mode 'scale') with DoRA"),
    ),
    "mtl_lora": (
        Refusal("composition_mode", lambda value: value != "add", "MTL-LoRA with composition_mode 'scale'"),
        Refusal("use_dora", bool, "MTL-LoRA with DoRA"),
        Refusal("vera_d", lambda value: value is not None, "MTL-LoRA with VeRA"),
        Refusal("vera_b", lambda value: value is not None, "MTL-LoRA with VeRA"),
    ),
}
_LORA_FAMILY = frozenset({"composition_mode", "vera_d", "vera_b", "use_dora", "dtype", "r", "dropout", "init_weights"})
"""Options that its LoRA configs have whatever the method: some of ours have no such option, or no need of it."""

_STARTS = ("ia3", "vera")
"""How its LoRA can start besides: other methods' ways."""

_LORA_DEFAULTS: Mapping[str, Any] = {"intermediate_lora": False, "attn_matrices": ["q", "v"], "alpha": 8}
"""What a LoRA config that leaves these out means, whatever the method."""

_AS_WRITTEN: Mapping[str, Mapping[str, bool]] = {
    "dora": {"scaled_norm": False, "scaled_bias": True},
    "vera": {"square": True},
    "dvora": {"scaled_norm": False, "scaled_bias": True, "square": True},
}
"""What its implementation of a method means, where that is not what the paper says."""

_DTYPES = (None, "float32", "float64", "float16", "bfloat16")


def adapter_config(
    content: Mapping[str, Any],
    keys: ArchitectureKeys,
    tensors: frozenset[str],
    where: str,
    subtract_projection: bool | None = None,
) -> Config:
    """Our config of an adapter.

    Args:
        content: what `adapter_config.json` holds.
        keys: the table of the architecture.
        tensors: the keys of its weights.
        where: the path of the file.
        subtract_projection: of ReFT, whose files do not say it.

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
    if architecture not in (None, *_ARCHITECTURES):
        raise FileError(
            f"there is no architecture {shorten(architecture)}",
            where=where,
            got=str(architecture)[:64],
            legal=_ARCHITECTURES,
        )
    options = {name: value for name, value in config.items() if name != "architecture"}
    if architecture == "union":
        return _union(options, content, keys, tensors, where, subtract_projection)
    if architecture == "reft":
        return _made(lambda: reft_config(options, subtract_projection, where), where)
    check_unasked(subtract_projection, where)
    if architecture == "prompt_tuning":
        encoder = all(stack.stack == "encoder" for stack in keys.stacks)
        return _made(lambda: PromptTuningConfig.make({**options, "adapterhub_mask": encoder}), where)
    if architecture == "prefix_tuning":
        # an ejected prefix has flat weights, but its config still says otherwise
        ejected = {"flat": True} if any(key.endswith(".control_trans") for key in tensors) else {}
        return _made(lambda: PrefixConfig.make({**options, **ejected}), where)
    if architecture in ("lora", "mtl_lora"):
        return _lora(architecture, options, content, keys, where)
    return _bottleneck(options, content, tensors, where)


def _union(
    options: Mapping[str, Any],
    content: Mapping[str, Any],
    keys: ArchitectureKeys,
    tensors: frozenset[str],
    where: str,
    subtract_projection: bool | None,
) -> Config:
    configs = options.get("configs")
    if not isinstance(configs, list):
        raise FileError("'configs' is not a list", where=where, why="a union holds the configs of its members")
    members = [adapter_config({**content, "config": one}, keys, tensors, where, subtract_projection) for one in configs]
    return _made(lambda: UnionConfig.make({"configs": members}), where)


def fusion_config(content: Mapping[str, Any], where: str) -> FusionConfig:
    """Our config of a fusion."""
    config = content.get("config")
    if isinstance(config, str):
        preset = config
        made = _made(lambda: make_fusion_config(preset), where)
        if not isinstance(made, FusionConfig):
            raise FileError(f"AdapterHub has no fusion {shorten(preset)}", where=where, legal=("dynamic", "static"))
        return made
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
    read = {"head_type", "num_labels", "label2id", "multilabel", *row.options, *row.theirs}
    problems = [
        Problem(f"the option '{name}' of {config['head_type']} heads is not known", where=where, legal=tuple(read))
        for name, value in config.items()
        if name not in read and value is not None and name != "dropout_prob"  # its language heads have no dropout
    ]
    if problems:
        raise FileError(problems)
    return _made(lambda: from_adapterhub_config(config, architecture), where)


def _bottleneck(options: dict[str, Any], content: Mapping[str, Any], tensors: frozenset[str], where: str) -> Config:
    old = options.pop("invertible_adapter", None)
    if isinstance(old, dict) and not options.get("inv_adapter"):
        options["inv_adapter"] = old.get("block_type")
        options["inv_adapter_reduction_factor"] = old.get("reduction_factor")
    unversioned = "version" not in content
    inverted = any("invertible_adapters." in key or "invertible_lang_adapters." in key for key in tensors)
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
    kind = CompacterConfig if options.get("phm_layer") else BottleneckConfig
    inert = (
        *(() if kind is CompacterConfig else _PHM),
        "phm_layer",
        "new_attention_norm",
        "attention_type",
        *(("inv_adapter_reduction_factor",) if options.get("inv_adapter_reduction_factor") is None else ()),
    )
    kept = {name: value for name, value in options.items() if name not in inert}
    return _made(lambda: kind.make(kept), where)


def _lora_method(architecture: str, options: Mapping[str, Any]) -> str:
    """The method that the fields of a LoRA config tell."""
    if architecture == "mtl_lora":
        return architecture
    if options.get("composition_mode") == "scale":
        return "ia3"
    vera = any(isinstance(options.get(name), float) for name in ("vera_d", "vera_b"))  # whole numbers are none there
    return {(False, False): "lora", (False, True): "dora", (True, False): "vera", (True, True): "dvora"}[
        vera, bool(options.get("use_dora"))
    ]


def _lora(
    architecture: str, options: dict[str, Any], content: Mapping[str, Any], keys: ArchitectureKeys, where: str
) -> Config:
    method = _lora_method(architecture, options)
    problems = _refusals(options, _LORA_REFUSED.get(method, (_COMPOSITION,)), where)
    if options.get("dtype") not in _DTYPES:
        problems.append(Problem(f"dtype {options['dtype']!r} is not one of floating numbers", where=where))
    if problems:
        raise FileError(problems)
    kind = METHODS[method]
    kept = {**_LORA_DEFAULTS, **options}
    if _before(content.get("version"), (1, 1)) and "r" in kept:
        kept["alpha"] = kept["r"]  # the scaling of these versions was 1 whatever alpha said
    matrices = kept.get("attn_matrices")
    if isinstance(matrices, list) and "o" in matrices:
        # It adapts no output projection on these architectures, whatever the option says.
        kept["attn_matrices"] = [matrix for matrix in matrices if matrix != "o"]
    if keys.feed_forward_swapped:
        first, last = kept.get("intermediate_lora", False), kept.get("output_lora", False)
        kept |= {"intermediate_lora": last, "output_lora": first}
    inert = _LORA_FAMILY - set(kind.options())
    kept = {name: value for name, value in kept.items() if name not in inert}
    if kept.get("init_weights") in _STARTS:
        del kept["init_weights"]  # the file has the weights: how they started makes no difference
    kept.update(_AS_WRITTEN.get(method, {}))
    return _made(lambda: kind.make(kept), where)


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
