"""The keys of recipes as tables for people, made from the schema."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel

from compose.recipes.json_schema import described, json_schema, sections_of
from compose.recipes.schema import Files, Recipe, Source, Table
from compose.recipes.schema.base import OpenSection

Schema = Mapping[str, Any]

SHARED: Mapping[type[BaseModel], str] = {
    Source: "all kinds",
    Table: "all kinds with named columns",
    Files: "`jsonl`, `csv` and `parquet`",
}
"""Sections that are a part of others, and what the others are."""


def tables() -> str:
    """A heading, a sentence and a table of keys for each section, as Markdown."""
    schema = json_schema()
    definitions = {**schema["$defs"], Recipe.__name__: schema}
    return "\n\n".join(
        _table(title, section, definitions)
        for title, section in dict.fromkeys(_sections(Recipe, "", "The recipe itself"))
    )


def _sections(model: type[BaseModel], path: str, title: str) -> Iterator[tuple[str, type[BaseModel]]]:
    """Every section with its title, what it shares with others of its kind before it."""
    shared = [base for base in SHARED if issubclass(model, base)]
    for section in (*shared, model):
        yield f"`{path}`: {SHARED[section]}" if section in SHARED else title, section
        for name, field in section.model_fields.items():
            if name in section.__annotations__:
                yield from _inside(field.annotation, f"{path}.{name}".lstrip("."))


def _inside(annotation: Any, path: str) -> Iterator[tuple[str, type[BaseModel]]]:
    """The sections in what a key is annotated with."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        kind = annotation.model_fields.get("kind")
        kinds = get_args(kind.annotation) if kind and get_origin(kind.annotation) is Literal else ()
        title = f"`{path}`, kind `{kinds[0]}`" if len(kinds) == 1 else f"`{path}`"
        yield from _sections(annotation, path, title)
        return
    step = {dict: ".NAME", tuple: ".N"}.get(get_origin(annotation), "")
    for argument in get_args(annotation):
        yield from _inside(argument, f"{path}{step}")


def _table(title: str, section: type[BaseModel], definitions: Mapping[str, Schema]) -> str:
    about, meanings = described(section)
    own = section.__annotations__
    schema = definitions.get(section.__name__) or _of_a_child(section, definitions)
    rows = [
        (f"`{key}`", _value(value), _default(key, value, schema), meanings.get(key, ""))
        for key, value in schema["properties"].items()
        if key in own
    ]
    cells = [[cell.replace("|", "\\|") for cell in row] for row in [("key", "value", "default", "meaning"), *rows]]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    rest = ["", "Its other keys are the kind's own options."] if issubclass(section, OpenSection) else []
    return "\n".join([f"### {title}", "", about, "", lines[0], "| --- | --- | --- | --- |", *lines[1:], *rest])


def _of_a_child(section: type[BaseModel], definitions: Mapping[str, Schema]) -> Schema:
    """The schema of a section that others share, which has none of its own."""
    return next(definitions[one.__name__] for one in sections_of(Recipe) if issubclass(one, section))


def _default(key: str, value: Schema, schema: Schema) -> str:
    required = [*schema.get("required", ()), *(name for one in schema.get("anyOf", ())[:1] for name in one["required"])]
    if key in required:
        return "required"
    default = value.get("default")
    empty = default is None or default in ({}, [], "")
    return "" if empty or "$ref" in value else f"`{json.dumps(default)}`"


def _value(value: Schema) -> str:
    """What a key takes, in words."""
    if "discriminator" in value:
        return "a source"
    if members := value.get("anyOf", value.get("oneOf")):
        return " or ".join(dict.fromkeys(_value(one) for one in members if one.get("type") != "null"))
    if "$ref" in value:
        return "a mapping"
    if "const" in value:
        return f"`{value['const']}`"
    if "enum" in value:
        return ", ".join(f"`{one}`" for one in value["enum"]) if len(value["enum"]) <= 12 else "a name"
    return _typed(value)


def _typed(value: Schema) -> str:
    match value.get("type"):
        case "object":
            inner = value["additionalProperties"]
            if inner is True:
                return "by name: any value"
            mappings = "$ref" in inner or "discriminator" in inner or inner.get("type") == "object"
            return "mappings by name" if mappings else f"by name: {_value(inner)}"
        case "array":
            return f"a list: {_value(value['items'])}" if "items" in value else "a list"
        case "integer":
            return f"a whole number{_bounds(value)}"
        case "number":
            return f"a number{_bounds(value)}"
        case "boolean":
            return "`true`, `false`"
        case "string":
            return "text"
        case _:
            return "any value"


def _bounds(value: Schema) -> str:
    told = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
    found = [f"{words} {value[key]:g}" for key, words in told.items() if key in value]
    return f", {' and '.join(found)}" if found else ""
