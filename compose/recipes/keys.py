"""Keys that a recipe cannot have: misspelt, in the wrong section, called otherwise elsewhere, or renamed since."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from compose.errors import Problem, nearest
from compose.recipes.document import Document, KeyPath, dotted
from compose.recipes.schema import Recipe

OTHER_NAMES: Mapping[str, str] = {
    "lr": "learning_rate",
    "num_train_epochs": "epochs",
    "num_epochs": "epochs",
    "bs": "batch_size",
    "per_device_train_batch_size": "batch_size",
    "max_tokens": "batch_tokens",
    "tokens_per_batch": "batch_tokens",
    "warmup_ratio": "warmup",
    "model": "backbone",
    "model_name_or_path": "backbone",
    "dataset": "data",
    "datasets": "data",
    "stages": "train",
    "training": "train",
    "evaluation": "evaluate",
    "prediction": "predict",
    "version": "recipe",
}
"""What other tools call a key, and what it is called here."""


class Renamed(NamedTuple):
    """A key that has another name since some version.

    Args:
        old: its path before, such as `train.*.rate`; a `*` stands for any name or position.
        new: its path now, with as many `*`.
        since: the version of the change.
    """

    old: str
    new: str
    since: str


RENAMED: tuple[Renamed, ...] = ()
"""Every key that a released version had and that is called otherwise now; a recipe that has it is told so."""


def renamed_keys(document: Document, table: Sequence[Renamed] = RENAMED) -> dict[KeyPath, Problem]:
    """The keys of a document that have other names now, each with what to say of it.

    Args:
        document: the recipe.
        table: the changes.
    """
    found: dict[KeyPath, Problem] = {}
    for change in table:
        steps = change.old.split(".")
        for path in document.keys:
            if len(path) == len(steps) and all(step in ("*", str(key)) for step, key in zip(steps, path, strict=True)):
                starred = iter([str(key) for step, key in zip(steps, path, strict=True) if step == "*"])
                new = ".".join(next(starred) if step == "*" else step for step in change.new.split("."))
                what = f"{dotted(path)} is called {new} since version {change.since}"
                found[path] = document.place(path, key=True).problem(what, hint=f"'{new.split('.')[-1]}'")
    return found


def unknown_key(document: Document, path: KeyPath) -> Problem:
    """What to say of a key that the schema does not have."""
    key = str(path[-1])
    legal = tuple(_fields(Recipe, document.data, path[:-1]))
    other = OTHER_NAMES.get(key.lower())
    hint = ""
    if other in legal:
        hint = f"'{other}' is what it is called here"
    else:
        homes = [where for name, where in _homes(Recipe, ()) if name == key]
        if homes:
            hint = f"'{key}' belongs in {' or '.join(dict.fromkeys(homes))}"
    where = dotted(path[:-1]) or "the recipe"
    likely = nearest(key, legal)[:1]
    if not hint and likely:
        hint = f"'{likely[0]}'"
    return document.place(path, key=True).problem(f"unknown key '{key}' in {where}", got=key, legal=legal, hint=hint)


def _fields(model: type[BaseModel], data: Any, path: KeyPath) -> list[str]:
    """The legal keys at a path."""
    at: Any = model
    for step in path:
        at = _inside(at, data, step)
        data = data[step]
    chosen = _chosen(at, data)
    return list(chosen.model_fields) if chosen else []


def _inside(annotation: Any, data: Any, step: str | int) -> Any:
    """The annotation of what stands under a key of something annotated."""
    model = _chosen(annotation, data)
    if model is not None:
        field = model.model_fields.get(str(step))
        return field.annotation if field else Any
    return next((argument for argument in reversed(_arguments(annotation)) if argument is not Ellipsis), Any)


def _arguments(annotation: Any) -> tuple[Any, ...]:
    return tuple(get_args(annotation))


def _chosen(annotation: Any, data: Any) -> type[BaseModel] | None:
    """The model among an annotation's that the data, by its kind, is meant to be."""
    if get_origin(annotation) is Annotated:
        return _chosen(_arguments(annotation)[0], data)
    if get_origin(annotation) in (Union, UnionType):
        models = [found for part in _arguments(annotation) if (found := _chosen(part, data))]
        kind = data.get("kind") if isinstance(data, dict) else None
        for model in models:
            declared = model.model_fields.get("kind")
            if declared and kind in _arguments(declared.annotation):
                return model
        return models[0] if models else None
    is_model = isinstance(annotation, type) and issubclass(annotation, BaseModel)
    return annotation if is_model else None


def _homes(annotation: Any, path: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Every key of the schema with the section it belongs in."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        for name, field in annotation.model_fields.items():
            yield name, ".".join(path) or "the recipe itself"
            yield from _homes(_plain(field), (*path, name))
        return
    for argument in _arguments(annotation):
        yield from _homes(argument, path)


def _plain(field: FieldInfo) -> Any:
    return field.annotation
