"""Reading PEFT's folders: which modules were adapted is what the keys say, and every key must have its place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from compose.dsl import name_problem
from compose.errors import FileError, Problem
from compose.io.modules import BackboneModules
from compose.io.peft.heads import read_head
from compose.io.peft.methods import BASE, METHODS, MODEL, Method, Weights, method_read
from compose.io.records import AdapterRecord, check_record_name
from compose.io.view import View
from compose.io.weights import read_weights

CONFIG, WEIGHTS = "adapter_config.json", ("adapter_model.safetensors", "adapter_model.bin")
BASES = (BASE, MODEL)
"""What may stand before a module's path in a key."""

_KEPT = ("base_model_name_or_path", "peft_type", "peft_version", "task_type")


def read_adapter(
    folder: View, modules: BackboneModules, name: str | None = None, with_head: bool = True
) -> AdapterRecord:
    """An adapter.

    Args:
        folder: the folder.
        modules: the backbone it is for.
        name: what to call it; else as the folder is called, since PEFT keeps no name.
        with_head: read the head in it too, if there is one.

    Raises:
        FileError: damaged, of a method or with an option that is not read, or with a tensor that has no place.
    """
    where = str(folder.path / CONFIG)
    config = folder.manifest(CONFIG)
    peft_type = config.get("peft_type")
    method = method_read(config)
    if method is None:
        raise FileError(
            f"PEFT's {str(peft_type)[:64]} cannot be read",
            where=where,
            got=str(peft_type)[:64],
            legal=tuple(dict.fromkeys(row.peft_type for row in METHODS)),
        )
    wanted = _name(folder, name, where)
    file = next((file for file in WEIGHTS if folder.has(file)), None)
    if file is None:
        raise FileError(f"the weights are missing: neither {' nor '.join(WEIGHTS)} is there", where=str(folder.path))
    path = str(folder.file(file))
    weights, saved = _placed(read_weights(folder.file(file)), config, method, modules, path)
    made, tensors = method.read(config, weights, modules, where)
    head = read_head(wanted, config.get("task_type"), saved, modules.spec, path) if with_head and saved else None
    meta = {"format": "peft", **{key: config[key] for key in _KEPT if isinstance(config.get(key), str)}}
    return AdapterRecord(wanted, made, tensors, head=head, meta=meta)


def _name(folder: View, name: str | None, where: str) -> str:
    if name is None:
        own = folder.path.resolve().name
        return "default" if name_problem(own, "adapter") else own
    return check_record_name(name, "adapter", where)


def _placed(
    tensors: Mapping[str, Tensor],
    config: Mapping[str, Any],
    method: Method,
    modules: BackboneModules,
    where: str,
) -> tuple[Weights, dict[str, Tensor]]:
    """Weights by module and by their name there; and those of modules that were saved whole, by transformers' names."""
    named = config.get("modules_to_save") or []
    if not isinstance(named, list) or not all(isinstance(each, str) for each in named):
        raise FileError("'modules_to_save' is not a list of names", where=where)
    whole = frozenset(named)  # PEFT may write a name twice
    weights: Weights = {}
    saved: dict[str, Tensor] = {}
    problems: list[Problem] = []
    for key, tensor in tensors.items():
        rest = next((key.removeprefix(base) for base in BASES if key.startswith(base)), key)
        leaf = next((leaf for leaf in method.leaves if rest.endswith(f".{leaf}") or rest == leaf), None)
        module = rest.removesuffix(leaf or "").removesuffix(".")
        own = ("" if leaf in method.alone else None) if not module else _own_path(module, modules)
        if leaf and own is not None and bool(own) != (leaf in method.alone):
            weights.setdefault(own, {})[leaf] = tensor
        elif leaf is None and any(part in whole for part in rest.split(".")[:-1]):
            saved[rest] = tensor
        else:
            why = "the backbone has no such linear map that an adapter could act on" if leaf else ""
            why = why or f"no weight of the method is called so ({', '.join(method.leaves)})"
            problems.append(Problem(f"tensor '{key}' has no place", where=where, why=why))
    if problems:
        raise FileError(problems)
    return weights, saved


def _own_path(module: str, modules: BackboneModules) -> str | None:
    """The path of a module in the backbone, whether the model that was saved had a head around it or not."""
    for path in (module, module.removeprefix(f"{modules.prefix}.")):
        if path in modules.linears or path in modules.older:
            return path
    return None
