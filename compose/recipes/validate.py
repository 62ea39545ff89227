"""From a read recipe to a checked one; every fault is told with its place in the file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from compose.errors import Problem, RecipeError, listing
from compose.recipes.checks import check, check_alone
from compose.recipes.document import Document, KeyPath, Place, dotted
from compose.recipes.include import INCLUDE, load_recipe
from compose.recipes.keys import RENAMED, Renamed, renamed_keys, unknown_key
from compose.recipes.members import members
from compose.recipes.overrides import apply_overrides
from compose.recipes.saved import absolute_folders
from compose.recipes.schema import DATA_KINDS, DataSource, Recipe
from compose.recipes.sources import absolute

Prepare = Callable[[Recipe, Document], Recipe]
"""Changes a recipe that is right by itself; the document says where things stand in it."""

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

PARTS = ("data", "adapters", "heads")
"""The sections whose parts can be checked without the others."""

FOR_LOAD = ("from", "path", "folder", "pretrained", "load_from")
"""What others call `load`."""


def read_recipe(
    path: str | Path, overrides: Sequence[str] = (), prepare: Prepare | None = None
) -> tuple[Document, Recipe]:
    """Read and check a recipe file.

    Args:
        path: the file.
        overrides: `key=value` each, as `--set` gives them.
        prepare: what changes a recipe before it is checked.

    Returns:
        The text as read with its overrides, and the recipe.

    Raises:
        RecipeError: everything that is wrong with it.
    """
    document = apply_overrides(load_recipe(path), overrides)
    return document, validate(document, prepare=prepare)


def validate(document: Document, renamed: Sequence[Renamed] = RENAMED, prepare: Prepare | None = None) -> Recipe:
    """The recipe that a document says.

    Args:
        document: the document.
        renamed: keys that were called otherwise before.
        prepare: what changes a recipe, each member of a sweep too, before it is checked.

    Raises:
        RecipeError: everything that is wrong with it; what sections say about each other is only
            checked once each is right by itself.
    """
    if not isinstance(document.data, dict):
        place = document.place(())
        raise RecipeError(place.problem(f"a recipe is a mapping, not {_kind(document.data)}"))
    if INCLUDE in document.data:
        place = document.place((INCLUDE,), key=True)
        raise RecipeError(
            place.problem("include is for a recipe's file: an override or a text alone has none beside it")
        )
    older = renamed_keys(document, renamed)
    try:
        recipe = Recipe.model_validate(document.data)
    except ValidationError as error:
        details = error.errors(include_url=False)
        found = [_problem(document, each) for each in details if _path(document.data, each["loc"])[0] not in older]
        others = _others(document, details) if prepare is None else []
        raise RecipeError(list(dict.fromkeys((*older.values(), *found, *others)))) from None
    if older:  # among options, which are free here
        raise RecipeError(list(older.values()))
    recipe = _begun(recipe, document)
    if prepare is not None:
        recipe = prepare(recipe, document)
    problems = check(recipe, document) or _sweep_problems(recipe, document, prepare)
    if problems:
        raise RecipeError(problems)
    return recipe


def _begun(recipe: Recipe, document: Document) -> Recipe:
    """A recipe whose paths are absolute."""
    recipe = recipe.model_copy(update={"data": _located(recipe, document), "data_folder": None})
    return recipe.model_copy(update=dict(absolute_folders(recipe, document)))


def _others(document: Document, details: Sequence[ErrorDetails]) -> list[Problem]:
    """What is wrong with the named parts of a recipe that the schema finds nothing wrong with, each by itself."""
    faulty = {_path(document.data, each["loc"])[0][:2] for each in details}
    parts = {
        section: {name: part for name, part in named.items() if (section, name) not in faulty}
        for section, named in document.data.items()
        if section in PARTS and isinstance(named, dict)
    }
    folder = {key: document.data[key] for key in ("data_folder",) if key in document.data and (key,) not in faulty}
    recipe = Recipe.model_validate({"recipe": 1, "name": "parts", "backbone": "none", **folder, **parts})
    return check_alone(_begun(recipe, document), document)


def _sweep_problems(recipe: Recipe, document: Document, prepare: Prepare | None) -> list[Problem]:
    """What is wrong with members of a sweep; what is wrong with several is said of the first."""
    found: dict[tuple[str, str], Problem] = {}
    for member in members(document, recipe.sweep):
        try:
            validate(member.document, prepare=prepare)
        except RecipeError as error:
            for problem in map(member.told, error.problems):
                found.setdefault((problem.where, problem.what), problem)
    return list(found.values())


def _located(recipe: Recipe, document: Document) -> dict[str, DataSource]:
    """The sources of a recipe with their paths made absolute: each begins where it is written, or in `data_folder`."""
    given = recipe.data_folder
    base = document.place(("data_folder",)).folder / given if given is not None else None

    def beginning(place: Place) -> Path:
        return place.folder if base is None or not place.line else base

    def folder(name: str) -> Callable[[str], Path]:
        return lambda key: beginning(document.place(("data", name, key)))

    return {name: absolute(source, folder(name)) for name, source in recipe.data.items()}


def _problem(document: Document, details: ErrorDetails) -> Problem:
    path, rest = _path(document.data, details["loc"])
    kind = details["type"]
    context = details.get("ctx", {})
    value = _value(document.data, path)
    name = dotted(path) or "the recipe"
    if kind == "extra_forbidden":
        return unknown_key(document, path)
    if kind == "missing":
        return document.place(path, key=True).problem(f"'{rest[0]}' is missing in {name}", hint=_example(str(rest[0])))
    if kind == "not_made":
        misspelt = get_close_matches(context["key"], value, 1)
        other = next((key for key in (*misspelt, *FOR_LOAD) if key in value), None)
        hint = f"{_example(context['key'])}, or load: FOLDER for what is trained already"
        hint = f"'{context['key'] if misspelt else 'load'}' is what it is called here" if other else hint
        at = document.place((*path, other) if other else path, key=True)
        return at.problem(f"'{context['key']}' is missing in {name}", hint=hint)
    if kind == "not_with_load":
        return _not_with_load(document, path, value, context["keys"])
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


def _not_with_load(document: Document, path: KeyPath, value: Mapping[str, Any], keys: Sequence[str]) -> Problem:
    """What to say of keys that have no meaning beside `load`, or without it."""
    at, names = document.place((*path, keys[0]), key=True), listing(tuple(keys))
    if "load" not in value:
        return at.problem(f"{names} of {dotted(path)} has no meaning without load")
    what = f"{dotted(path)} is loaded, so that {names} cannot be said of it"
    return at.problem(what, why="what is loaded is as it was saved", hint=f"leave out {names}, or load")


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


def _example(key: str) -> str:
    examples = {
        "recipe": "recipe: 1",
        "backbone": "backbone: minilm",
        "method": "method: seq_bn",
        "kind": "kind: classification",
        "expression": """expression: 'Fuse("a", "b")'""",
    }
    return examples.get(key, "")


def _tags(context: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(_choices(str(context.get("expected_tags", "")))) or DATA_KINDS


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
