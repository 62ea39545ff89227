"""Heads in PEFT's folders: the classifiers of transformers' models, which `modules_to_save` names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from compose.errors import ComposeError, FileError, Problem
from compose.heads.spec import ClassificationConfig, HeadConfig, make_head_config
from compose.io.records import HeadRecord, as_file_error
from compose.specs import BackboneSpec


class HeadRow(NamedTuple):
    """The head of one of transformers' models.

    Args:
        task_type: what PEFT calls the task; None where it has no word for it.
        kind: our kind of head.
        modules: its modules, and ours.
        options: those of our config that give the same head.
        model: the class that has it.
    """

    task_type: str | None
    kind: str
    modules: Mapping[str, str]
    options: Mapping[str, Any]
    model: str


_LINEAR = {"classifier": "out"}
_SCORE = {"score": "out"}
_TWO = {"layers": 2, "activation": "tanh"}


def _tagging(model: str, modules: Mapping[str, str] = _LINEAR) -> HeadRow:
    return HeadRow("TOKEN_CLS", "tagging", modules, {}, f"{model}ForTokenClassification")


def _classification(model: str, modules: Mapping[str, str], **options: Any) -> HeadRow:
    return HeadRow("SEQ_CLS", "classification", modules, options, f"{model}ForSequenceClassification")


def _roberta(model: str) -> tuple[HeadRow, ...]:
    modules = {"classifier.dense": "dense.0", "classifier.out_proj": "out"}
    return _classification(model, modules, pooling="first", **_TWO), _tagging(model)


HEADS: Mapping[str, tuple[HeadRow, ...]] = {
    "bert": (_classification("Bert", _LINEAR, use_pooler=True), _tagging("Bert")),
    "roberta": _roberta("Roberta"),
    "xlm-roberta": _roberta("XLMRoberta"),
    "distilbert": (
        _classification(
            "DistilBert",
            {"pre_classifier": "dense.0", "classifier": "out"},
            pooling="first",
            layers=2,
            activation="relu",
        ),
        _tagging("DistilBert"),
    ),
    "gpt2": (_classification("GPT2", _SCORE, pooling="last", bias=False), _tagging("GPT2")),
    "llama": (_classification("Llama", _SCORE, pooling="last", bias=False), _tagging("Llama", _SCORE)),
    "t5": (
        _classification(
            "T5",
            {"classification_head.dense": "dense.0", "classification_head.out_proj": "out"},
            pooling="eos",
            **_TWO,
        ),
    ),
    "vit": (
        HeadRow(None, "classification", _LINEAR, {"pooling": "first", "dropout": 0.0}, "ViTForImageClassification"),
    ),
}
"""By architecture. What a model of transformers takes from its own config (label names, the problem, dropout) is not
in PEFT's folder."""


def read_head(
    name: str, task_type: object, tensors: Mapping[str, Tensor], backbone: BackboneSpec, where: str
) -> HeadRecord:
    """A head.

    Args:
        name: what to call it.
        task_type: PEFT's word for the task.
        tensors: its weights by the names of transformers' modules.
        backbone: the backbone it is for.
        where: the file that errors name.

    Raises:
        FileError: no head that is known has these weights.
    """
    every = HEADS.get(backbone.architecture, ())
    rows = [row for row in every if task_type is None or row.task_type == task_type]
    fitting = [row for row in rows if {key.rpartition(".")[0] for key in tensors} == set(row.modules)]
    if len(fitting) != 1:
        known = "; ".join(f"{', '.join(row.modules)} ({row.model})" for row in rows or every)
        raise FileError(
            "the saved modules are no head that is known",
            where=where,
            why=f"task_type is {task_type!r}, and there is {', '.join(sorted(tensors))}; known heads have {known}",
            hint="with_head=False",
        )
    row = fitting[0]
    placed = {}
    for key, tensor in tensors.items():
        module, _, parameter = key.rpartition(".")
        placed[f"{row.modules[module]}.{parameter}"] = tensor
    labels = len(placed["out.weight"]) if "out.weight" in placed else 0
    problem_kind = {"problem": "regression"} if labels == 1 and row.kind == "classification" else {}
    try:
        config = make_head_config(row.kind, labels=labels, **{**row.options, **problem_kind})
    except ComposeError as error:
        raise as_file_error(error, where) from error
    return HeadRecord(name, config, placed)


def write_head(head: HeadRecord, backbone: BackboneSpec, task_type: str | None) -> tuple[HeadRow, dict[str, Tensor]]:
    """The row of a head, and its weights by the names of transformers' modules.

    Raises:
        FileError: no model of transformers has such a head.
    """
    what = f"head '{head.name}'"
    every = HEADS.get(backbone.architecture, ())
    rows = [row for row in every if row.kind == head.config.kind and task_type in (None, row.task_type)]
    if not rows:
        raise FileError(
            f"{what}: PEFT keeps heads of transformers' models, and none of these for '{backbone.architecture}' is "
            f"of kind '{head.config.kind}'",
            got=head.config.kind,
            legal=tuple(row.kind for row in every),
            hint="with_head=False, or format='adapterhub'",
        )
    row = rows[0]
    differing = _differing(head.config, row)
    if differing:
        raise FileError(
            [
                Problem(
                    f"{what}: that of {row.model} has {name}={needed!r}, this one {given!r}",
                    hint="with_head=False, or format='adapterhub'",
                )
                for name, (given, needed) in differing.items()
            ]
        )
    theirs = {ours: module for module, ours in row.modules.items()}
    tensors = {}
    for key, tensor in head.tensors.items():
        module, _, parameter = key.rpartition(".")
        tensors[f"{theirs[module]}.{parameter}"] = tensor
    return row, tensors


def _differing(config: HeadConfig, row: HeadRow) -> dict[str, tuple[object, object]]:
    """The options in which a head is another than the row's: (its own, the row's)."""
    free = {"labels": config.to_dict()["labels"], "dropout": config.to_dict()["dropout"]}
    if isinstance(config, ClassificationConfig):
        free["problem"] = config.problem
        if config.pooling is None and not config.use_pooler:
            free["pooling"] = None  # ours by default is transformers': the first, last or final token
    if config.to_dict()["layers"] == 1:
        free["activation"] = config.to_dict()["activation"]
    needed = make_head_config(row.kind, **{**row.options, **free}).to_dict()
    if row.options.get("use_pooler"):
        needed["pooling"] = None
    return {name: (value, needed[name]) for name, value in config.to_dict().items() if value != needed[name]}
