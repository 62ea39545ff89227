"""Made data of the shape that a recipe's sources have: a few rows with their columns, labelled as their heads need."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from compose.errors import ComposeError, FileError
from compose.heads.spec import label_names
from compose.recipes.expressions import task_names
from compose.recipes.schema import Bundled, Conll, Csv, DataSource, Hub, Jsonl, Parquet, Recipe, Sample, Table
from compose.recipes.smoke.files import write_rows
from compose.recipes.smoke.words import sentence
from compose.recipes.sources import columns_of, parts_of
from compose.train.columns import Columns
from compose.train.data import Dataset, Example, Target
from compose.train.formats.row import FilePart
from compose.train.read import read_part
from compose.train.schemes import Scheme

Makeable = Bundled | Jsonl | Csv | Parquet | Conll | Hub
CAN_BE_MADE = (Bundled, Jsonl, Csv, Parquet, Conll, Hub)
"""Sources that made files can stand for."""

PARTS = ("train", "validation", "test")
ROWS: Mapping[str, int] = {"train": 12, "validation": 8, "test": 8}
"""How many rows of each part are made, if there are not more labels."""

LOOKED_AT = 200
"""In how many rows of files that are there labels are looked for."""

SCORES = 6
"""Made scores are 0 to one less than this."""

MADE_NAMES: Mapping[Target, tuple[str, ...]] = {
    "label": ("first", "second", "third"),
    "labels": ("first", "second", "third"),
    "entities": ("person", "place"),
    "score": (),
    "answers": (),
    "text": (),
}
MADE_TAGS: Mapping[Scheme, tuple[str, ...]] = {
    "bio": ("O", "B-person", "I-person", "B-place"),
    "iob1": ("O", "I-person", "I-person", "I-place"),
    "bioes": ("O", "B-person", "E-person", "S-place"),
}


@dataclass
class Made:
    """Rows that stand for a part of some sources, which may read columns of their own from it.

    Args:
        called: what tells the part from others: a path, or the name of a data set and its split.
        source: one of the sources.
        rows: how many there are.
        columns: which columns are read, each with what its labels are called.
    """

    called: str
    source: Makeable
    rows: int
    columns: list[tuple[Columns, tuple[str, ...]]] = field(default_factory=list)

    def write(self, folder: Path) -> Path:
        """Writes them into a folder, under a name that says what is in them; gives the file."""
        return write_rows(self.values(), self.source, self.called, folder)

    def write_to(self, path: Path) -> None:
        """Writes them to a file."""
        write_rows(self.values(), self.source, self.called, path.parent, path.name)

    def values(self) -> list[dict[str, Any]]:
        """The rows, by column."""
        return [self._row(number) for number in range(self.rows)]

    def _row(self, number: int) -> dict[str, Any]:
        row: dict[str, Any] = {}
        for columns, names in self.columns:
            for column in (columns.tokens, columns.pair) if columns.tokens else (columns.text, columns.pair):
                words = sentence(Random(f"{self.called} {number} {column}"))
                if column is not None:
                    row.setdefault(column, words if columns.tokens else " ".join(words))
            column = getattr(columns, columns.target, None) if columns.target != "text" else None
            if column is not None:
                row.setdefault(column, _target(columns, row, names, number))
        return row


def _target(columns: Columns, row: Mapping[str, Any], names: Sequence[str], number: int) -> Any:
    """What a row is labelled with."""
    match columns.target:
        case "label":
            return names[number % len(names)]
        case "labels":
            return list(dict.fromkeys(names[(number + step) % len(names)] for step in range(1 + number % 2)))
        case "score":
            return float(number % SCORES)
        case "tags":
            return [names[(number + place) % len(names)] for place in range(len(row[columns.tokens or ""]))]
        case "answers":
            return list(_answers(row[columns.pair or ""], number))
        case _:
            return list(_entities(row[columns.text], names, number))


def _answers(text: str, number: int) -> Iterator[dict[str, Any]]:
    """One word is the answer."""
    words = text.split(" ")
    place = number % len(words)
    yield {"text": words[place], "answer_start": sum(len(word) + 1 for word in words[:place])}


def _entities(text: str, names: Sequence[str], number: int) -> Iterator[dict[str, Any]]:
    """Every third word is an entity."""
    start = 0
    for place, word in enumerate(text.split(" ")):
        if place % 3 == 1:
            yield {"start": start, "end": start + len(word), "type": names[(number + place) % len(names)]}
        start += len(word) + 1


def made_files(recipe: Recipe, folder: Path, sources: Mapping[str, Makeable]) -> dict[str, Made]:
    """What is made for some sources of a recipe, by the part that it stands for.

    Args:
        recipe: the recipe.
        folder: where its relative paths begin.
        sources: the sources. Those that read the same part read the same rows.
    """
    found: dict[str, Made] = {}
    for name, source in sources.items():
        names = _names(recipe, name, source, folder)
        for key, part in named_parts(source, folder).items():
            made = found.setdefault(part, Made(part, source, 0))
            made.rows = max(made.rows, ROWS[key], len(names))
            made.columns.append((columns_of(source), names))
    return found


def made_sources(sources: Mapping[str, Makeable], folder: Path, places: Mapping[str, Path]) -> dict[str, DataSource]:
    """Sources that read made files.

    Args:
        sources: what they stand for.
        folder: where relative paths begin.
        places: the file of each part.
    """
    found: dict[str, DataSource] = {}
    for name, source in sources.items():
        files = {key: str(places[part]) for key, part in named_parts(source, folder).items()}
        if isinstance(source, Bundled | Hub):
            columns = {key: getattr(source, key) for key in Table.model_fields}
            columns["validation"] = source.validation
            found[name] = Jsonl.model_validate({**columns, "kind": "jsonl", "sample": Sample(), **files})
        else:
            found[name] = source.model_copy(update={"sample": Sample(), **files})
    return found


def named_parts(source: Makeable, folder: Path) -> dict[str, str]:
    """What tells each part of a source from others: a path, or a data set and its split."""
    if isinstance(source, Bundled):
        return {key: f"{source.name}-{key}" for key in ("train", "test")}
    given = {key: getattr(source, key) for key in PARTS}
    texts = {key: value for key, value in given.items() if isinstance(value, str)}
    if isinstance(source, Hub):
        words = [word for word in (source.name, source.config, source.revision) if word]
        return {key: "-".join([*words, split]) for key, split in texts.items()}
    return {key: str(folder / path) for key, path in texts.items()}


def _names(recipe: Recipe, name: str, source: Makeable, folder: Path) -> tuple[str, ...]:
    """What a source's labels are, as its rows write them: by its map, its heads, its files, or made ones."""
    target = columns_of(source).target
    if target in ("score", "answers", "text"):
        return ()
    if source.label_map is not None:
        return tuple(key for key, value in source.label_map.items() if value is not None)
    found = _of_heads(recipe, name) or _of_files(source, folder) or _of_weights(recipe, name)
    if target == "entities":
        found = tuple(dict.fromkeys(label.partition("-")[2] for label in found if "-" in label))
    return found or (MADE_TAGS[source.scheme] if target == "tags" else MADE_NAMES[target])


def _tasks(recipe: Recipe, name: str) -> Iterator[str]:
    """The heads that learn from a source, or are scored on it."""
    own = {task for text in recipe.evaluate.texts_for(name) for task in _tasks_of(text)}
    for task in recipe.heads:
        chosen = [stage.data[task] for stage in recipe.train if task in stage.data]
        if task in own or name in (task, *chosen, *recipe.evaluate.data.get(task, ())):
            yield task


def _tasks_of(text: str) -> list[str]:
    try:
        return task_names(text)
    except ComposeError:  # which is told of when it is checked
        return []


def _of_heads(recipe: Recipe, name: str) -> tuple[str, ...]:
    for task in _tasks(recipe, name):
        try:
            return label_names(recipe.heads[task].labels)
        except ValueError:  # it names none, or is told of when the head is checked
            continue
    return ()


def _of_files(source: Makeable, folder: Path) -> tuple[str, ...]:
    """The labels in the first rows of files that are there."""
    columns, rows = columns_of(source), list[Example]()
    for part in parts_of(source, folder):
        if isinstance(part, FilePart):
            try:
                rows += read_part(part, columns, LOOKED_AT)
            except FileError:
                continue
    return tuple(Dataset("", columns.target, tuple(rows)).labels())


def _of_weights(recipe: Recipe, name: str) -> tuple[str, ...]:
    """The labels that stages weigh."""
    for stage in recipe.train:
        for task in _tasks(recipe, name):
            weights = stage.class_weights.get(task) if isinstance(stage.class_weights, dict) else None
            if isinstance(weights, dict):
                return tuple(weights)
    return ()
