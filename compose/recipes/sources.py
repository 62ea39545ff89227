"""The data sources of a recipe, as parts and columns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from compose.recipes.schema import Bundled, Conll, Csv, DataSource, Digits, Hub, Jsonl, Local, Parquet, Recipe, Table
from compose.recipes.shipped import bundled_files
from compose.train.columns import TARGETS, Columns
from compose.train.data import Dataset
from compose.train.formats.conll import Conll as ConllFormat
from compose.train.formats.csv import Csv as CsvFormat
from compose.train.formats.digits import IMAGE, DigitsPart
from compose.train.formats.hub import HubPart
from compose.train.formats.jsonl import Jsonl as JsonlFormat
from compose.train.formats.parquet import Parquet as ParquetFormat
from compose.train.formats.row import FilePart, Format, Part
from compose.train.read import read_dataset

LOCAL_PARTS = ("train", "validation", "test")
"""The keys of a local source that may name files."""


class Parts(NamedTuple):
    """The parts of a source; its validation part may be a share of what it has to learn from."""

    train: Part
    validation: Part | float | None
    test: Part | None


def parts_of(source: DataSource, folder: Path) -> Parts:
    """The parts of a source.

    Args:
        source: the source.
        folder: where its relative paths begin.
    """
    if isinstance(source, Digits):
        return Parts(DigitsPart("train"), source.validation, DigitsPart("test"))
    if isinstance(source, Bundled):
        train, test = (FilePart(path, JsonlFormat()) for path in bundled_files(source.name))
        return Parts(train, source.validation, test)
    made = _split(source) if isinstance(source, Hub) else _file(source, folder)
    validation = made(source.validation) if isinstance(source.validation, str) else source.validation
    return Parts(made(source.train), validation, made(source.test) if source.test is not None else None)


def _split(source: Hub) -> Callable[[str], Part]:
    return lambda split: HubPart(source.name, split, source.config, source.revision)


def _file(source: Local, folder: Path) -> Callable[[str], Part]:
    return lambda path: FilePart(folder / path, format_of(source))


def format_of(source: Local) -> Format:
    """How rows stand in the files of a source."""
    match source:
        case Jsonl():
            return JsonlFormat()
        case Csv():
            return CsvFormat(source.delimiter, source.header, source.quotes, source.separator)
        case Parquet():
            return ParquetFormat()
        case Conll():
            return ConllFormat(source.header, source.comments)


def has_test(source: DataSource) -> bool:
    """Whether a source has something to score on."""
    return isinstance(source, Bundled | Digits) or source.test is not None


def columns_of(source: DataSource) -> Columns:
    """Which columns hold what."""
    match source:
        case Table():
            named = {name: getattr(source, name) for name in ("pair", "tokens", *TARGETS)}
            named["text"] = source.text or "text"
        case Conll():
            named = {"tokens": str(source.tokens), "tags": str(source.tags)}
        case Digits():
            named = {"image": IMAGE, "label": source.label}
    return Columns(label_map=source.label_map, scheme=source.scheme, **named)


def absolute(source: DataSource, folder: Callable[[str], Path]) -> DataSource:
    """A source whose paths are absolute.

    Args:
        source: the source.
        folder: where the path under a key (`train`, ...) begins.
    """
    if not isinstance(source, Local):
        return source
    given = {key: getattr(source, key) for key in LOCAL_PARTS}
    paths = {key: str((folder(key) / path).absolute()) for key, path in given.items() if isinstance(path, str)}
    return source.model_copy(update=paths)


def read_sources(recipe: Recipe, folder: Path, names: set[str]) -> dict[str, Dataset]:
    """The data of some of a recipe's sources.

    Args:
        recipe: the recipe.
        folder: where relative paths begin.
        names: of the sources.

    Raises:
        FileError: files that are missing or damaged.
    """
    found = {}
    for name in sorted(names):
        source = recipe.data[name]
        parts = parts_of(source, folder)
        sizes = source.sample.model_dump()
        found[name] = read_dataset(
            name, columns_of(source), parts.train, parts.test, parts.validation, sizes, recipe.seed
        )
    return found
