"""Reads a backbone with its table: the modules of every site, and the spec that the compiler needs.

Works on modules and configurations by their attributes alone, so that it needs no torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from compose.backbones import bert, decoders, t5, vit
from compose.backbones.table import BackboneTable, Fused, LinearPath, StackTable, SubLayerTable
from compose.errors import BackboneError, Problem
from compose.specs import LINEARS, BackboneSpec, LayerSpec, SiteSpec, SubLayerSpec

TABLES: dict[str, tuple[BackboneTable, ...]] = {**bert.TABLES, **decoders.TABLES, **t5.TABLES, **vit.TABLES}
"""Every known architecture by transformers' `model_type`; several tables where versions name modules differently."""


@dataclass(frozen=True)
class LinearModule:
    """A linear site's module, and for a fused map the part of its output: (index, parts)."""

    site: str
    module: Any
    fused: tuple[int, int] | None
    memory: bool


@dataclass(frozen=True)
class SubLayerModules:
    """The modules of one sub-layer.

    Args:
        norm: the LayerNorm that closes it, in a post-norm layer.
        normed: its LayerNorm: that one, or in a pre-norm layer the one that it starts with.
    """

    name: str
    value: Any
    residual: Any
    residual_argument: str | None
    norm: Any | None
    normed: Any
    linears: tuple[LinearModule, ...]
    core: Any | None = None
    prefix_score: float = 0.0


@dataclass(frozen=True)
class LayerModules:
    """The modules of one layer."""

    index: int
    stack: str
    layer: Any
    sublayers: tuple[SubLayerModules, ...]
    batch_arguments: tuple[str, ...]


@dataclass(frozen=True)
class StackModules:
    """A stack that reads an encoder: its own module, and its first layer's index."""

    module: Any
    first: int


@dataclass(frozen=True)
class Anatomy:
    """A backbone taken apart: its table, its spec, and the modules that belong to it.

    Args:
        before: what runs before the layers, where these can be entered without it.
    """

    table: BackboneTable
    spec: BackboneSpec
    layers: tuple[LayerModules, ...]
    decoder: StackModules | None
    before: tuple[Any, ...] = ()


def table_for(model: Any) -> BackboneTable:
    """The table of a model's architecture.

    Raises:
        BackboneError: if there is none; names those that there are.
    """
    architecture = model.config.model_type
    if architecture not in TABLES:
        raise BackboneError(
            f"the architecture '{architecture}' is not known",
            got=architecture,
            legal=tuple(TABLES),
            hint="describe it in a BackboneTable and pass that: compose.attach(model, table=...)",
        )
    tables = TABLES[architecture]
    fits = (table for table in tables if _module_at(model, table.stacks[0].layers) is not None)
    return next(fits, tables[0])


def resolve(model: Any, table: BackboneTable | None = None) -> Anatomy:
    """Finds every site of a backbone.

    Args:
        model: a base model of transformers (`BertModel`, not `BertForSequenceClassification`).
        table: where its sites are; by default that of its architecture.

    Raises:
        BackboneError: naming every path of the table that the model lacks.
    """
    table = table or table_for(model)
    problems: list[Problem] = []
    layers: list[LayerModules] = []
    specs: list[LayerSpec] = []
    decoder = None
    inside: set[int] = set()
    for stack in table.stacks:
        blocks = _find(model, stack.layers, problems, "")
        if stack.stack == "decoder" and len(table.stacks) > 1:
            decoder = StackModules(_find(model, stack.module, problems, ""), len(layers))
        for block in blocks if blocks is not None else ():
            inside.update(id(module) for module in block.modules())
            modules, layer_spec = _layer(block, len(layers), stack, model, problems)
            layers.append(modules)
            specs.append(layer_spec)
    before = tuple(_find(model, path, problems, "") for path in table.entry)
    if problems:
        raise BackboneError(problems)
    spec = BackboneSpec(
        architecture=model.config.model_type,
        hidden_size=model.config.hidden_size,
        layers=tuple(specs),
        causal=table.causal,
        modality=table.modality,
        input_multiplies=_input_multiplies(model),
        fixed_multiplies=_fixed_multiplies(model, inside),
        tokens=_image_tokens(model) if table.modality == "image" else None,
        vocabulary=getattr(model.config, "vocab_size", 0) or 0,
    )
    return Anatomy(table, spec, tuple(layers), decoder, before)


def _layer(
    block: Any, index: int, stack: StackTable, model: Any, problems: list[Problem]
) -> tuple[LayerModules, LayerSpec]:
    sublayers: list[SubLayerModules] = []
    specs: list[SubLayerSpec] = []
    for table in stack.sublayers:
        modules = _sublayer(block, table, f"layer {index} ({stack.layers})", problems)
        sublayers.append(modules)
        if not problems:
            specs.append(_sublayer_spec(block, table, modules, model.config.hidden_size))
    layer = LayerModules(index, stack.stack, block, tuple(sublayers), stack.batch_arguments)
    return layer, LayerSpec(index, stack.stack, tuple(specs))


def _sublayer(block: Any, table: SubLayerTable, where: str, problems: list[Problem]) -> SubLayerModules:
    prefix = table.name.rpartition(".")[0]
    kind = table.name.rpartition(".")[2]
    linears = []
    for linear in LINEARS[kind]:
        if linear not in table.linears:
            continue
        path, fused = _linear_path(table.linears[linear])
        module = _find(block, path, problems, where)
        site = f"{prefix}.{kind}.{linear}" if prefix else f"{kind}.{linear}"
        linears.append(LinearModule(site, module, fused, prefix == "cross" and linear in ("k", "v")))
    residual = _find(block, table.residual, problems, where)
    norm = _find(block, table.norm, problems, where) if table.norm else None
    return SubLayerModules(
        name=table.name,
        value=_find(block, table.value, problems, where),
        residual=residual,
        residual_argument=table.residual_argument,
        norm=norm,
        normed=residual if norm is None else norm,
        linears=tuple(linears),
        core=_find(block, table.core, problems, where) if table.core else None,
        prefix_score=table.prefix_score,
    )


def _linear_path(path: LinearPath) -> tuple[str | tuple[str, ...], tuple[int, int] | None]:
    return (path.path, (path.index, path.parts)) if isinstance(path, Fused) else (path, None)


def _find(root: Any, path: str | tuple[str, ...], problems: list[Problem], where: str) -> Any:
    """The module at the path, or at the first of several that exists."""
    for candidate in (path,) if isinstance(path, str) else path:
        module = _module_at(root, candidate)
        if module is not None:
            return module
    shown = path if isinstance(path, str) else " or ".join(path)
    problems.append(Problem(f"{type(root).__name__} has no module '{shown}'", where=where))
    return None


def _module_at(root: Any, path: str) -> Any:
    module = root
    for name in path.split(".") if path else ():
        module = getattr(module, name, None)
    return module


def linear_size(module: Any) -> tuple[int, int] | None:
    """Width in and out of a linear map; None if the module is none.

    Transformers' Conv1D (GPT-2) keeps its weight transposed.
    """
    weight = getattr(module, "weight", None)
    kind = type(module).__name__
    if weight is None or len(weight.shape) != 2 or "Embedding" in kind:
        return None
    rows, columns = module.weight.shape
    return (rows, columns) if kind == "Conv1D" else (columns, rows)


def has_bias(module: Any) -> bool:
    """Whether a module adds a bias to its result."""
    return getattr(module, "bias", None) is not None


def _sublayer_spec(block: Any, table: SubLayerTable, modules: SubLayerModules, hidden_size: int) -> SubLayerSpec:
    sites, memory_maps = [], set()
    for linear in modules.linears:
        width_in, width_out = linear_size(linear.module) or (hidden_size, hidden_size)
        if linear.fused:
            width_out //= linear.fused[1]
        sites.append(SiteSpec(linear.site, "linear", width_in, width_out, linear.memory, has_bias(linear.module)))
        if linear.memory:
            memory_maps.add(id(linear.module))
    multiplies = memory = 0
    for module in _maps(block, table.body):
        width_in, width_out = linear_size(module) or (0, 0)
        if id(module) in memory_maps:
            memory += width_in * width_out
        else:
            multiplies += width_in * width_out
    query = next((site for site in sites if site.name.endswith("attn.q")), None)
    key = next((site for site in sites if site.name.endswith("attn.k")), None)
    core = None
    if key is not None and modules.core is not None:
        core = SiteSpec(f"{table.name}.core", "core", hidden_size, key.width_out)
    return SubLayerSpec(
        site=SiteSpec(table.name, "sublayer", hidden_size, hidden_size),
        norm="post" if modules.norm is not None else "pre",
        linears=tuple(sites),
        multiplies=multiplies,
        memory_multiplies=memory,
        attention_width=query.width_out if query else 0,
        core=core,
        normed=_norm_site(table.name, modules.normed, hidden_size),
    )


def _norm_site(sublayer: str, module: Any, hidden_size: int) -> SiteSpec | None:
    """The site of what a LayerNorm gives; None if the module is none, as a table of one's own may have it."""
    weight = getattr(module, "weight", None)
    if weight is None or len(weight.shape) != 1:
        return None
    return SiteSpec(f"{sublayer}.norm", "norm", hidden_size, hidden_size, bias=has_bias(module))


def _maps(block: Any, paths: tuple[str, ...]) -> Iterator[Any]:
    seen: set[int] = set()
    for path in paths:
        root = block
        for name in path.split("."):
            root = getattr(root, name)
        for module in root.modules():
            if id(module) not in seen and linear_size(module):
                seen.add(id(module))
                yield module


def _input_multiplies(model: Any) -> int:
    """Multiply-adds a row before the layers: patch embeddings meet every patch."""
    weights = [getattr(module, "weight", None) for module in model.modules()]
    patches = [weight for weight in weights if weight is not None and len(weight.shape) == 4]
    return sum(int(weight.numel()) for weight in patches) * (_image_tokens(model) - 1) if patches else 0


def _fixed_multiplies(model: Any, inside: set[int]) -> int:
    """Multiply-adds a row after the layers: poolers, which run on one token."""
    maps = (module for module in model.modules() if id(module) not in inside and linear_size(module))
    return sum(int(module.weight.numel()) for module in maps)


def _image_tokens(model: Any) -> int:
    """Patches and the class token."""
    size, patch = model.config.image_size, model.config.patch_size
    return int((size // patch) ** 2 + 1)
