"""From a read recipe to a checked one; every fault is told with its place in the file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from compose.errors import Problem, RecipeError, nearest
from compose.recipes.checks import check
from compose.recipes.document import Document, KeyPath, dotted
from compose.recipes.loader import load_file
from compose.recipes.members import members, placed
from compose.recipes.overrides import apply_overrides
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

KINDS = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "dict_type": "a mapping",
    "tuple_type": "a list",
    "list_type": "a list",
}


def read_recipe(path: str | Path, overrides: Sequence[str] = ()) -> tuple[Document, Recipe]:
    """Read and check a recipe file.

    Args:
        path: the file.
        overrides: `key=value` each, as `--set` gives them.

    Returns:
        The text as read with its overrides, and the recipe.

    Raises:
        RecipeError: everything that is wrong with it.
    """
    document = apply_overrides(load_file(path), overrides)
    return document, validate(document)


def validate(document: Document) -> Recipe:
    """The recipe that a document says.

    Raises:
        RecipeError: everything that is wrong with it; what sections say about each other is only
            checked once each is right by itself.
    """
    if not isinstance(document.data, dict):
        place = document.place(())
        raise RecipeError(place.problem(f"a recipe is a mapping, not {_kind(document.data)}"))
    try:
        recipe = Recipe.model_validate(document.data)
    except ValidationError as error:
        found = [_problem(document, details) for details in error.errors(include_url=False)]
        raise RecipeError(list(dict.fromkeys(found))) from None
    problems = check(recipe, document) or _sweep_problems(recipe, document)
    if problems:
        raise RecipeError(problems)
    return recipe


def _sweep_problems(recipe: Recipe, document: Document) -> list[Problem]:
    """What is wrong with members of a sweep; what is wrong with several is said of the first."""
    found: dict[tuple[str, str], Problem] = {}
    for member in members(document, recipe.sweep):
        try:
            validate(member.document)
        except RecipeError as error:
            for problem in placed(document, member.values, recipe.sweep, error.problems):
                found.setdefault((problem.where, problem.what), problem)
    return list(found.values())


def _problem(document: Document, details: ErrorDetails) -> Problem:
    path, rest = _path(document.data, details["loc"])
    kind = details["type"]
    context = details.get("ctx", {})
    value = _value(document.data, path)
    name = dotted(path) or "the recipe"
    if kind == "extra_forbidden":
        return _unknown_key(document, path)
    if kind == "missing":
        return document.place(path, key=True).problem(f"'{rest[0]}' is missing in {name}", hint=_example(str(rest[0])))
    at = document.place(path)
    if kind == "union_tag_not_found":
        return document.place(path, key=True).problem(f"'kind' is missing in {name}", legal=_tags(context))
    if kind == "union_tag_invalid":
        at = document.place((*path, "kind"))
        return at.problem(
            f"{name} has an unknown kind {context['tag']!r}", got=str(context["tag"]), legal=_tags(context)
        )
    if kind == "literal_error":
        legal = tuple(_choices(context.get("expected", "")))
        what = f"{name} must be {'one of the legal values' if legal[1:] else legal[0]}, not {_shown(value)}"
        return at.problem(what, got=str(value), legal=legal[1:] and legal)
    if kind in KINDS:
        hint = ""
        if value is None:
            hint = "is what belongs to it indented below it?" if "mapping" in KINDS[kind] else "write a value"
        elif kind == "string_type":
            hint = f'"{value}" in quotes is text' if not isinstance(value, (dict, list)) else ""
        return at.problem(f"{name} must be {KINDS[kind]}, not {_shown(value)}", hint=hint)
    if kind in ("too_short", "string_too_short"):
        return at.problem(f"{name} must not be empty")
    if kind == "string_pattern_mismatch":
        return at.problem(f"{name} is not a legal name", why="1 to 64 letters, digits and _ - .")
    message = details["msg"].removeprefix("Input ").removeprefix("should ")
    return at.problem(f"{name} is {_shown(value)}, but should {message}")


def _path(data: Any, location: tuple[str | int, ...]) -> tuple[KeyPath, tuple[str | int, ...]]:
    """The part of pydantic's location that is in the data (tags of unions are not), and the rest."""
    path: KeyPath = ()
    rest: list[str | int] = []
    for step in location:
        inside = _value(data, path)
        found = (isinstance(inside, dict) and step in inside) or (
            isinstance(inside, list) and isinstance(step, int) and step < len(inside)
        )
        if found and not rest[1:]:
            path, rest = (*path, step), []
        else:
            rest.append(step)
    return path, tuple(rest[-1:])


def _value(data: Any, path: KeyPath) -> Any:
    for step in path:
        data = data[step]
    return data


def _unknown_key(document: Document, path: KeyPath) -> Problem:
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


def _example(key: str) -> str:
    examples = {"recipe": "recipe: 1", "backbone": "backbone: minilm", "method": "method: seq_bn"}
    return examples.get(key, "")


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


def _tags(context: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(_choices(str(context.get("expected_tags", "'bundled', 'jsonl'"))))


def _choices(expected: str) -> list[str]:
    """The names in pydantic's list: `'a', 'b' or 'c'`."""
    return [part.strip("'") for part in expected.replace(" or ", ", ").split(", ") if part]


def _kind(value: object) -> str:
    if value is None:
        return "nothing"
    return {"str": "text", "list": "a list", "dict": "a mapping"}.get(type(value).__name__, "a single value")


def _shown(value: object) -> str:
    if value is None or isinstance(value, (dict, list)):
        return _kind(value)
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
