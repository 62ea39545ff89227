"""Writing PEFT's folders."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from compose.errors import FileError
from compose.io.export import Files
from compose.io.jsonfile import dump_json
from compose.io.modules import BackboneModules
from compose.io.peft.heads import write_head
from compose.io.peft.methods import METHODS, method_written
from compose.io.peft.read import CONFIG, WEIGHTS
from compose.io.records import AdapterRecord
from compose.io.weights import dump_weights

TASKS = ("CAUSAL_LM", "FEATURE_EXTRACTION", "QUESTION_ANS", "SEQ_2_SEQ_LM", "SEQ_CLS", "TOKEN_CLS")
"""PEFT's words for tasks."""

_WITH_HEAD = ("QUESTION_ANS", "SEQ_CLS", "TOKEN_CLS")
"""Tasks whose heads PEFT trains beside the adapter, and so looks for in the folder."""

_BARE = {("t5", "SEQ_2_SEQ_LM")}
"""Models with a head that hold the backbone's modules themselves, not a base model."""


def adapter_files(record: AdapterRecord, modules: BackboneModules, task_type: str | None = None) -> Files:
    """The files of an adapter, and of the head that its record carries; the config comes last.

    Args:
        record: the adapter.
        modules: the backbone it is for.
        task_type: PEFT's word for the task (`CAUSAL_LM`, `SEQ_CLS`, ...), and so for the model that will load it:
            `AutoModelForCausalLM` and so on. None: the head's, and without one the base model (`AutoModel`).

    Raises:
        FileError: something that PEFT's format cannot say.
    """
    what = f"adapter '{record.name}'"
    if task_type is not None and task_type not in TASKS:
        raise FileError(f"PEFT has no task_type {task_type!r}", got=str(task_type), legal=TASKS)
    method = method_written(record.config.method)
    if method is None:
        raise FileError(
            f"{what}: '{record.config.method}' cannot be written in PEFT's format",
            got=record.config.method,
            legal=tuple(row.ours for row in METHODS),
            hint="format='native' or 'adapterhub'",
        )
    content, weights = method.write(record, modules, what)
    saved: dict[str, Tensor] = {}
    within = task_type not in (None, "FEATURE_EXTRACTION") and (modules.spec.architecture, task_type) not in _BARE
    if record.head is not None:
        row, saved = write_head(record.head, modules.spec, task_type)
        task_type, within = row.task_type, True
    elif task_type in _WITH_HEAD:
        raise FileError(
            f"{what}: PEFT looks for the head of a {task_type} model in the folder",
            hint="with_head=True, or no task_type: the adapter is then for the base model",
        )
    inside = f"{modules.prefix}." if within and modules.prefix else ""
    tensors = {f"{method.base}{name}": tensor for name, tensor in saved.items()}
    for path, own in weights.items():
        before = f"{method.base}{inside}{path}." if path else method.top
        tensors |= {f"{before}{leaf}": tensor for leaf, tensor in own.items()}
    if method.virtual and task_type is None:
        task_type = "SEQ_2_SEQ_LM" if modules.spec.encoder_decoder else "FEATURE_EXTRACTION"
    manifest: dict[str, Any] = {
        "peft_type": method.peft_type,
        "task_type": task_type,
        "base_model_name_or_path": record.meta.get("base_model_name_or_path"),
        "inference_mode": True,
        "modules_to_save": sorted({name.split(".")[0] for name in saved}) or None,
        **content,
    }
    return [(WEIGHTS[0], dump_weights(tensors)), (CONFIG, dump_json(manifest))]
