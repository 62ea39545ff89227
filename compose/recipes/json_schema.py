"""The schema of recipes as JSON Schema, for editors: keys with what they mean, and nothing else allowed."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from typing import Any, get_args

from pydantic import BaseModel

from compose.heads.spec import KINDS
from compose.methods.fusions import FUSION_METHODS
from compose.methods.presets import PRESETS
from compose.methods.registry import METHODS
from compose.recipes.include import INCLUDE
from compose.recipes.schema import Adapter, Fusion, Head, Recipe

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a recipe.

    The options of methods, heads and fusions are listed with what they mean; which of them belong to which kind, and
    what sections say about each other, `compose recipe validate` checks.
    """
    schema = Recipe.model_json_schema()
    sections = {section.__name__: section for section in sections_of(Recipe)}
    for name, definition in schema["$defs"].items():
        _describe(definition, sections[name])
    _describe(schema, Recipe)
    for section in (Adapter, Head, Fusion):
        _made_or_loaded(schema["$defs"][section.__name__], section.made_by)
    _open(schema["$defs"]["Adapter"], "method", dict.fromkeys((*PRESETS, *METHODS)), METHODS)
    _open(schema["$defs"]["Head"], "kind", KINDS, {kind: row.config for kind, row in KINDS.items()})
    _open(schema["$defs"]["Fusion"], None, (), FUSION_METHODS)
    required = schema.pop("required")  # the rest may be in the files that are included
    schema["anyOf"] = [{"required": required}, {"required": [INCLUDE]}]
    return {"$schema": DIALECT, **schema}


def sections_of(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """A section and all sections in it, each once, in the order of their keys."""
    seen = {model}
    yield model
    for field in model.model_fields.values():
        for inner in _models(field.annotation):
            for section in sections_of(inner):
                if section not in seen:
                    seen.add(section)
                    yield section


def described(section: type) -> tuple[str, dict[str, str]]:
    """What the docstrings of a class and of its bases say: of it, and of each of its `Args`."""
    about, found = _parts(section.__doc__ or "")
    for base in reversed(section.__mro__):
        found = _parts(base.__doc__ or "")[1] | found if base is not section else found
    return about, found


def _parts(docstring: str) -> tuple[str, dict[str, str]]:
    """A docstring before `Args`, and what `Args` says of each name."""
    about, _, rest = inspect.cleandoc(docstring).partition("\nArgs:\n")
    found: dict[str, list[str]] = {}
    name = ""
    for line in rest.split("\n"):
        indent = len(line) - len(line.lstrip())
        if not indent:  # what follows Args
            break
        if indent == 4:
            name, _, line = line.strip().partition(": ")
        found.setdefault(name, []).append(line.strip())
    paragraphs = [" ".join(paragraph.split()) for paragraph in about.split("\n\n")]
    return "\n\n".join(paragraphs).strip(), {name: " ".join(lines) for name, lines in found.items()}


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)


def _describe(definition: dict[str, Any], section: type[BaseModel]) -> None:
    """Puts into a section's schema what its docstrings say."""
    about, keys = described(section)
    definition["description"] = about
    for key, schema in definition["properties"].items():
        schema.pop("title", None)
        if key in keys:
            schema["description"] = keys[key]


def _made_or_loaded(definition: dict[str, Any], made_by: str) -> None:
    """What may be loaded has one of two keys, neither of which may be null."""
    for key in (made_by, "load"):
        described = definition["properties"][key].get("description")
        definition["properties"][key] = {"type": "string", "minLength": 1, "description": described}
    definition["oneOf"] = [{"required": [made_by]}, {"required": ["load"]}]


def _open(definition: dict[str, Any], chooser: str | None, legal: Iterable[str], configs: Mapping[str, type]) -> None:
    """Closes a section whose other keys are options of what it chooses."""
    definition["additionalProperties"] = False
    if chooser is not None:
        definition["properties"][chooser]["enum"] = list(legal)
    meanings: dict[str, dict[str, list[str]]] = {}
    for kind, config in configs.items():
        about = described(config)[1]
        for option in fields(config):
            meanings.setdefault(option.name, {}).setdefault(about.get(option.name, ""), []).append(kind)
    for name, told in meanings.items():
        text = " ".join(f"({', '.join(kinds)}) {meaning}".strip() for meaning, kinds in told.items())
        definition["properties"].setdefault(name, {"description": text})
