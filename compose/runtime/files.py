"""Between a model's modules and the records that files hold: all of a file is taken, or nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compose import io
from compose.backbones.paths import linear_paths, older_paths, words_alone
from compose.dsl import Expression, Fuse, as_expression, fuses, leaves, own_name
from compose.errors import FileError, Problem, RegistryError
from compose.heads.build import build_head
from compose.heads.head import Head
from compose.io.records import AdapterRecord, CompositionRecord, FusionRecord, HeadRecord
from compose.methods.adapter import Adapter
from compose.runtime.backbone_files import forget_others, write_backbone
from compose.runtime.fusions import fusion_from
from compose.runtime.host import embeddings_of, host_of
from compose.runtime.merge import original_parameters
from compose.runtime.named import NamedModules
from compose.runtime.regimes import heads_of

if TYPE_CHECKING:
    from compose.runtime.model import Model

Finished = tuple[NamedModules, str, Any]
"""A module that is ready to be kept: where, under which name, and itself."""


def fingerprint(model: Model) -> io.Fingerprint:
    """The fingerprint of a model's backbone."""
    return io.Fingerprint.of(model.spec, original_parameters(model))


def modules_of(model: Model) -> io.BackboneModules:
    """The names of a model's modules, for other libraries' files."""
    backbone, anatomy = model.backbone, model.hooks.anatomy
    rotary = getattr(getattr(backbone, "rotary_emb", None), "inv_freq", None)
    embeddings = embeddings_of(model)
    return io.BackboneModules(
        model.spec,
        names=frozenset(name for name, _ in backbone.named_modules()),
        linears=linear_paths(backbone, anatomy),
        older=older_paths(anatomy),
        prefix=str(getattr(backbone, "base_model_prefix", "")),
        transposed=any(type(module).__name__ == "Conv1D" for module in backbone.modules()),
        heads=int(getattr(model.config, "num_attention_heads", 0) or 0),
        words_only=anatomy.table.words_only or words_alone(backbone, anatomy),
        rotary=None if rotary is None else rotary.detach().cpu(),
        embeddings=embeddings,
        tied=embeddings if getattr(model.config, "tie_word_embeddings", False) else None,
    )


def save_adapter(
    model: Model, name: str, folder: str | Path, with_head: bool, form: str, options: Mapping[str, Any]
) -> None:
    """Writes an adapter, with the head of its name if asked for."""
    io.write_adapter(adapter_record(model, name, with_head), folder, modules_of(model), form, **options)


def save_fusion(model: Model, fuse: Fuse | str, folder: str | Path, form: str) -> None:
    """Writes a fusion."""
    name = fuse if isinstance(fuse, str) and fuse in model.fusions else own_name(as_expression(fuse)) or ""
    io.write_fusion(_fusion_record(model, name), folder, modules_of(model), form)


def save_head(model: Model, name: str, folder: str | Path, form: str) -> None:
    """Writes a head."""
    io.write_head(_head_record(model, name), folder, modules_of(model), form)


def save_plan(model: Model, expression: Expression, folder: str | Path, form: str, with_backbone: bool = False) -> None:
    """Writes an expression with everything that it names; heads that do not exist are left out.

    Args:
        model: the model.
        expression: the expression.
        folder: where to.
        form: `native` or `adapterhub`.
        with_backbone: the backbone too, so that the folder is read without any other.

    Raises:
        FileError: it cannot be written, or AdapterHub's format is to hold the backbone.
    """
    if with_backbone and form != "native":
        raise FileError(f"the format '{form}' holds no backbone", where=str(folder), hint="format='native'")
    record = CompositionRecord(
        expression,
        adapters={name: _adapter_record(model, name, None) for name in leaves(expression)},
        fusions={name: _fusion_record(model, name) for name in map(_own_name, fuses(expression))},
        heads={name: _head_record(model, name) for name in heads_of(expression) if name in model.heads},
        backbone=write_backbone(model, Path(folder)) if with_backbone else model.source,
    )
    io.write_composition(record, folder, modules_of(model), form)
    if form == "native":
        forget_others(Path(folder), record.backbone)


def adapter_record(model: Model, name: str, with_head: bool) -> AdapterRecord:
    """An adapter as its file would hold it, with the head of its name if asked for."""
    return _adapter_record(model, name, _head_record(model, name) if with_head else None)


def keep_adapter(model: Model, record: AdapterRecord) -> None:
    """Takes an adapter from a record, with its head where it has one."""
    finished: list[Finished] = [(model.adapters, record.name, _adapter(model, record))]
    if record.head is not None:
        finished.append((model.heads, record.head.name, _head(model, record.head)))
    _register(model, finished)


def load_adapter(
    model: Model,
    folder: str | Path,
    name: str | None,
    with_head: bool,
    allow_backbone: bool,
    subtract_projection: bool | None = None,
) -> str:
    """Loads an adapter, with its head if asked for."""
    record = io.read_adapter(
        folder,
        model.spec,
        name,
        with_head,
        fingerprint(model),
        allow_backbone,
        subtract_projection,
        modules_of(model),
    )
    if with_head and record.head is None:
        raise FileError("there is no head beside the adapter", where=str(folder), hint="with_head=False")
    keep_adapter(model, record)
    return record.name


def load_fusion(model: Model, folder: str | Path, name: str | None, allow_backbone: bool) -> str:
    """Loads a fusion."""
    record = io.read_fusion(folder, model.spec, name, fingerprint(model), allow_backbone)
    _register(model, [(model.fusions, record.name, fusion_from(model, record))])
    return record.name


def load_head(model: Model, folder: str | Path, name: str | None, allow_backbone: bool) -> str:
    """Loads a head."""
    record = io.read_head(folder, model.spec, name, fingerprint(model), allow_backbone)
    _register(model, [(model.heads, record.name, _head(model, record))])
    return record.name


def load_composition(model: Model, folder: str | Path, allow_backbone: bool) -> Expression:
    """Takes everything that a saved plan names, all of it or nothing; returns its expression."""
    record = io.read_composition(folder, fingerprint(model), allow_backbone, model.spec)
    finished: list[Finished] = []
    finished += [(model.adapters, name, _adapter(model, found)) for name, found in record.adapters.items()]
    finished += [(model.fusions, name, fusion_from(model, found)) for name, found in record.fusions.items()]
    finished += [(model.heads, name, _head(model, found)) for name, found in record.heads.items()]
    _register(model, finished)
    return record.expression


def _own_name(fuse: Fuse) -> str:
    return own_name(fuse) or ""


def _register(model: Model, finished: list[Finished]) -> None:
    """Keeps finished modules if all their names are free, else none."""
    problems = [
        Problem(
            f"the {registry.what} '{name}' is there already",
            hint=f"load it under another name, or model.delete_{registry.what}({name!r}) first",
        )
        for registry, name, _ in finished
        if name in registry
    ]
    if problems:
        raise RegistryError(problems)
    for registry, name, module in finished:
        model.register(registry, name, module)


def _adapter(model: Model, record: AdapterRecord) -> Adapter:
    adapter = Adapter(record.name, record.config, model.spec)
    adapter.to(model.adapter_dtype).load_tensors(record.tensors)
    if record.masks:
        adapter.mask(record.masks)
    return adapter


def _head(model: Model, record: HeadRecord) -> Head:
    head = build_head(record.name, record.config, host_of(model))
    head.to(model.adapter_dtype).load_tensors(record.tensors)
    return head


def _adapter_record(model: Model, name: str, head: HeadRecord | None) -> AdapterRecord:
    adapter = model.adapters[name]
    adapter.masks.enforce()
    masks = adapter.masks.by_name()
    return AdapterRecord(name, adapter.config, adapter.tensors(), head, fingerprint(model), masks=masks)


def _fusion_record(model: Model, name: str) -> FusionRecord:
    fusion = model.fusions[name]
    return FusionRecord(name, fusion.config, fusion.candidates, fusion.tensors(), fingerprint(model))


def _head_record(model: Model, name: str) -> HeadRecord:
    head = model.heads[name]
    if not head.config.kind or head.config.kind == "custom":
        raise FileError(
            f"the head '{name}' is a module of your own, which the native format cannot describe",
            hint="torch.save(model.heads[name].state_dict(), ...)",
        )
    return HeadRecord(name, head.config, head.tensors(), fingerprint(model))
