"""As much of JSON Schema as the schema of recipes uses, to hold it to recipes without another library."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

KNOWN = {
    "$schema", "$defs", "$ref", "title", "description", "default", "discriminator", "type", "const", "enum", "anyOf",
    "oneOf", "properties", "required", "additionalProperties", "items", "minItems", "minLength", "maxLength",
    "pattern", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minProperties", "propertyNames",
}  # fmt: skip
"""The keywords that are checked here, or that check nothing."""

TYPES: Mapping[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}


def faults(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any], at: str = "") -> Iterator[str]:
    """Everything in which a value is not what a schema says."""
    assert set(schema) <= KNOWN, set(schema) - KNOWN
    if "$ref" in schema:
        yield from faults(value, root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root, at)
    kinds = TYPES.get(schema.get("type", ""), (object,))
    if not isinstance(value, kinds) or (isinstance(value, bool) and kinds != (object,) and bool not in kinds):
        yield f"{at}: not {schema['type']}"
        return
    if "const" in schema and value != schema["const"]:
        yield f"{at}: not {schema['const']}"
    if "enum" in schema and value not in schema["enum"]:
        yield f"{at}: none of {schema['enum']}"
    for word, least in (("anyOf", 1), ("oneOf", 1)):
        fitting = [one for one in schema.get(word, ()) if not list(faults(value, one, root, at))]
        if word in schema and (len(fitting) < least or (word == "oneOf" and len(fitting) > 1)):
            yield f"{at}: fits {len(fitting)} of {word}"
    if isinstance(value, dict):
        yield from _object(value, schema, root, at)
    elif isinstance(value, list):
        if len(value) < schema.get("minItems", 0):
            yield f"{at}: too short"
        for number, inner in enumerate(value):
            yield from faults(inner, schema.get("items", {}), root, f"{at}.{number}")
    elif isinstance(value, str):
        if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)):
            yield f"{at}: wrong length"
        if not re.search(schema.get("pattern", ""), value):
            yield f"{at}: not {schema['pattern']}"
    elif isinstance(value, int | float):
        yield from _number(value, schema, at)


def _object(value: dict[str, Any], schema: Mapping[str, Any], root: Mapping[str, Any], at: str) -> Iterator[str]:
    for key in schema.get("required", ()):
        if key not in value:
            yield f"{at}: no {key}"
    if len(value) < schema.get("minProperties", 0):
        yield f"{at}: too few keys"
    for key, inner in value.items():
        yield from faults(key, schema.get("propertyNames", {}), root, f"{at}.{key}")
        other = schema.get("additionalProperties", {})
        known = schema.get("properties", {}).get(key, other)
        if known is False:
            yield f"{at}.{key}: not allowed"
        elif known is not True:
            yield from faults(inner, known, root, f"{at}.{key}")


def _number(value: float, schema: Mapping[str, Any], at: str) -> Iterator[str]:
    fits = {
        "minimum": lambda bound: value >= bound,
        "maximum": lambda bound: value <= bound,
        "exclusiveMinimum": lambda bound: value > bound,
        "exclusiveMaximum": lambda bound: value < bound,
    }
    for word, test in fits.items():
        if word in schema and not test(schema[word]):
            yield f"{at}: {word} is {schema[word]}"
