"""Reads a recipe's YAML into plain data that remembers where everything stands.

Built on PyYAML's events, not on its constructors: a recipe is a tree of mappings, lists and plain
scalars, and everything else that YAML can do (anchors, aliases, tags, merge keys, several
documents) is refused with its place. Scalars follow YAML 1.2: `5e-5` is a number, only `true` and
`false` are booleans, and there are no octal or sexagesimal numbers. Size, depth and the number of
nodes are bounded, so that no file takes long.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from compose.errors import Problem, RecipeError
from compose.recipes.document import Document, KeyPath, Place

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_NODES = 50_000

Scalar = str | int | float | bool | None

# libyaml where PyYAML was built with it: fifty times as fast on a file of the largest size.
EVENTS = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

INTEGER = re.compile(r"[-+]?[0-9]+")
FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
UNREADABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]|\ufeff")
TAB_INDENT = re.compile(r"^[ ]*\t", re.MULTILINE)
LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")


def load_file(path: str | Path) -> Document:
    """Read a recipe file.

    Args:
        path: the file.

    Returns:
        The document.

    Raises:
        RecipeError: the file cannot be read, or is not a recipe's YAML.
    """
    name = str(path)
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise RecipeError(f"cannot be read: {error.strerror or error}", where=name) from None
    return load_text(decode(content, name), name)


def load_text(text: str, source: str = "recipe") -> Document:
    """Read a recipe's text.

    Args:
        text: YAML.
        source: the name that errors give.

    Returns:
        The document.

    Raises:
        RecipeError: the text is not the YAML of a recipe.
    """
    if len(text) > MAX_BYTES:
        raise RecipeError(f"larger than {MAX_BYTES >> 20} MiB, which no recipe needs", where=source)
    for pattern, what, hint in (
        (UNREADABLE, "a character that does not belong in a text file", "save the file as plain UTF-8 text"),
        (TAB_INDENT, "a tab in the indentation", "indent with spaces"),
    ):
        if match := pattern.search(text):
            place = _place_of_offset(text, match.end() - 1, source)
            raise RecipeError(place.problem(what, hint=hint))
    return _Builder(source, text).document()


def decode(content: bytes, source: str) -> str:
    """Bytes as UTF-8 text, or an error with the place of the first byte that is not."""
    if len(content) > MAX_BYTES:
        raise RecipeError(f"larger than {MAX_BYTES >> 20} MiB, which no recipe needs", where=source)
    for mark, name in ((b"\xef\xbb\xbf", "UTF-8"), (b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16")):
        if content.startswith(mark):
            what = f"begins with a {name} byte order mark"
            raise RecipeError(what, where=f"{source}:1:1", hint="save it as UTF-8 without a byte order mark")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8")
        after = content[error.start : error.start + 80].decode("latin-1")
        place = _place_of_offset(before + after.split("\n", 1)[0], len(before), source)
        byte = content[error.start]
        what = f"byte 0x{byte:02x} is not UTF-8"
        raise RecipeError(place.problem(what, hint="save the file as UTF-8, not as Latin-1 or binary")) from None


def scalar(text: str) -> Scalar:
    """The value of a plain (unquoted) scalar, by YAML 1.2's core schema less octal and hexadecimal.

    >>> [scalar(text) for text in ("5e-5", "no", "true", "010", "12:30", "~")]
    [5e-05, 'no', True, 10, '12:30', None]

    Raises:
        ValueError: a number that is not finite, or too long.
    """
    if text in ("", "~", "null", "Null", "NULL"):
        return None
    if text in ("true", "false"):
        return text == "true"
    if INTEGER.fullmatch(text):
        if len(text) > 19:
            raise ValueError("a whole number of more than 18 digits")
        return int(text)
    if NOT_FINITE.fullmatch(text):
        raise ValueError("a number that is not finite")
    if FLOAT.fullmatch(text):
        if len(text) > 64 or not math.isfinite(float(text)):
            raise ValueError("a number that is not finite")
        return float(text)
    return text


def _place_of_offset(text: str, offset: int, source: str) -> Place:
    breaks = [match.end() for match in LINE_BREAK.finditer(text, 0, offset)]
    start = breaks[-1] if breaks else 0
    stop = LINE_BREAK.search(text, offset)
    line = text[start : stop.start() if stop else len(text)]
    shown = UNREADABLE.sub("\N{REPLACEMENT CHARACTER}", line).replace("\t", " ")
    return Place(source, len(breaks) + 1, offset - start + 1, shown)


class _Builder:
    """Builds the data from YAML events; its depth is bounded, so recursion is safe."""

    def __init__(self, source: str, text: str) -> None:
        self.source, self.text = source, text
        self.lines = [line.replace("\t", " ") for line in LINE_BREAK.split(text)]
        self.keys: dict[KeyPath, Place] = {}
        self.values: dict[KeyPath, Place] = {}
        self.nodes = 0
        self.problems: list[Problem] = []
        self.events: Iterator[yaml.Event] = self._events()

    def document(self) -> Document:
        first = next(self.events)
        if isinstance(first, yaml.StreamEndEvent):
            raise RecipeError(
                "the file is empty",
                where=f"{self.source}:1:1",
                hint="begin with `recipe: 1`, or copy one with `compose recipe cp`",
            )
        data = self._value(next(self.events), ())
        next(self.events)
        extra = next(self.events)
        if not isinstance(extra, yaml.StreamEndEvent):
            raise RecipeError(self._at(extra).problem("a second document begins", hint="one recipe per file"))
        if self.problems:
            raise RecipeError(self.problems)
        return Document(self.source, self.text, data, self.keys, self.values)

    def _events(self) -> Iterator[yaml.Event]:
        try:
            for event in yaml.parse(self.text, Loader=EVENTS):
                if isinstance(event, yaml.DocumentStartEvent) and (event.version or event.tags):
                    raise RecipeError(self._at(event).problem("YAML directives are not allowed"))
                if not isinstance(event, yaml.StreamStartEvent):
                    yield event
        except yaml.MarkedYAMLError as error:
            what = " ".join(part for part in (error.context, error.problem) if part)
            places = [self._mark(mark) for mark in (error.problem_mark, error.context_mark) if mark is not None]
            if not places:
                raise RecipeError(f"not YAML: {what}", where=self.source) from None
            place = next((place for place in places if place.text.strip()), None) or self._last()
            hint = "quote the text if it contains ': ' or ' #'" if "mapping values" in what else ""
            raise RecipeError(place.problem(f"not YAML: {what}", hint=hint)) from None
        except yaml.YAMLError as error:
            raise RecipeError(f"not YAML: {error}", where=self.source) from None

    def _value(self, event: yaml.Event, path: KeyPath) -> Any:
        place = self.values[path] = self._at(event)
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise RecipeError(place.problem(f"more than {MAX_NODES:,} values, which no recipe needs"))
        if len(path) > MAX_DEPTH:
            raise RecipeError(place.problem(f"nested more than {MAX_DEPTH} deep"))
        if isinstance(event, yaml.AliasEvent):
            raise RecipeError(place.problem("aliases are not allowed", hint="write the value out"))
        assert isinstance(event, yaml.NodeEvent)
        if event.anchor:
            raise RecipeError(place.problem("anchors are not allowed", hint="write the value out"))
        tag = getattr(event, "tag", None)
        if tag is not None:
            raise RecipeError(place.problem(f"tags are not allowed: {tag[:60]}"))
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event, place)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(path)
        return self._mapping(path)

    def _scalar(self, event: yaml.ScalarEvent, place: Place) -> Scalar:
        if UNREADABLE.search(event.value):  # written as an escape
            self.problems.append(place.problem("a character that does not belong in a text"))
            return None
        if event.style:
            return str(event.value)
        try:
            return scalar(event.value)
        except ValueError as error:
            self.problems.append(place.problem(str(error)))
            return None

    def _sequence(self, path: KeyPath) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            items.append(self._value(event, (*path, len(items))))
        return items

    def _mapping(self, path: KeyPath) -> dict[str, Any]:
        items: dict[str, Any] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            place = self._at(event)
            key = self._key(event, place)
            if key in items:
                first = self.keys[*path, key]
                self.problems.append(place.problem(f"the key '{key}' stands here twice", why=f"first at {first}"))
                # Values under a repeated key are read (for their own faults) but kept nowhere.
                self._value(next(self.events), (*path, key))
                self.keys[*path, key] = first
                continue
            self.keys[*path, key] = place
            items[key] = self._value(next(self.events), (*path, key))
        return items

    def _key(self, event: yaml.Event, place: Place) -> str:
        if not isinstance(event, yaml.ScalarEvent) or event.anchor or event.tag:
            hint = "a key is a plain word, without anchors, aliases or tags"
            raise RecipeError(place.problem("not a key", hint=hint))
        if event.value == "<<" and not event.style:
            raise RecipeError(place.problem("merge keys are not allowed", hint="write the keys out"))
        if not event.value:
            raise RecipeError(place.problem("a key without a name"))
        return str(event.value)

    def _at(self, event: yaml.Event) -> Place:
        start, end = event.start_mark, event.end_mark
        assert start is not None and end is not None  # parsers set them
        place = self._mark(start)
        same_line = isinstance(event, yaml.ScalarEvent) and end.line == start.line
        width = end.column - start.column if same_line else 1
        return Place(self.source, place.line, place.column, place.text, max(1, width))

    def _last(self) -> Place:
        """Behind what stands last: what is left open is found to be so at the end of the file."""
        number = max((number for number, line in enumerate(self.lines) if line.strip()), default=0)
        text = self.lines[number].rstrip()
        return Place(self.source, number + 1, len(text) + 1, text)

    def _mark(self, mark: Any) -> Place:
        line = min(mark.line, len(self.lines) - 1)
        text = self.lines[line]
        return Place(self.source, line + 1, min(mark.column, len(text)) + 1, text)
