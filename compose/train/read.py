"""Data sets from their parts: every row an example, or an error with its place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from compose.errors import FileError, Problem
from compose.train.columns import Columns, example_or_problem
from compose.train.data import Dataset, Example, hold_out, sample
from compose.train.formats.jsonl import Jsonl
from compose.train.formats.row import FilePart, Format, Part

MAX_PROBLEMS = 20
"""How many damaged rows of a part are told of."""


def read_dataset(
    name: str,
    columns: Columns,
    train: Part,
    test: Part | None = None,
    validation: Part | float | None = None,
    sizes: Mapping[str, int | None] | None = None,
    seed: int = 0,
) -> Dataset:
    """A task's examples from its parts.

    Args:
        name: of the source, for errors.
        columns: which field holds what.
        train: what to learn from.
        test: what to score on, if there is such a part.
        validation: what to choose by, or the share of `train` that is cut off for it: by the seed, of each label as
            much as of the others.
        sizes: how many examples of `train`, `validation` and `test` to draw; all where None.
        seed: of the drawing.

    Raises:
        FileError: files that are missing or damaged, or lack a column.
    """
    parts = {part: read_part(given, columns) if given else () for part, given in (("train", train), ("test", test))}
    parts["validation"] = read_part(validation, columns) if isinstance(validation, Part) else ()
    if isinstance(validation, float):
        if len(parts["train"]) < 2:
            raise FileError("one row alone cannot be cut into two parts", where=train.where)
        parts["train"], parts["validation"] = hold_out(parts["train"], validation, seed)
    drawn = {part: sample(examples, (sizes or {}).get(part), seed) for part, examples in parts.items()}
    return Dataset(name, columns.target, **drawn, names=columns.label_names())


def read_examples(
    path: Path, columns: Columns, limit: int | None = None, format: Format | None = None
) -> tuple[Example, ...]:
    """The examples of a file, the first `limit` of them.

    Args:
        path: the file.
        columns: which field holds what.
        limit: how many; all where None.
        format: how rows stand in it; JSON lines by default.

    Raises:
        FileError: naming the file and line of everything that is wrong.
    """
    return read_part(FilePart(path, format or Jsonl()), columns, limit)


def read_part(part: Part, columns: Columns, limit: int | None = None) -> tuple[Example, ...]:
    """The examples of a part, the first `limit` of them.

    Raises:
        FileError: naming the place of everything that is wrong.
    """
    examples: list[Example] = []
    problems: list[Problem] = []
    for row in part.rows(columns):
        found = row if isinstance(row, Problem) else example_or_problem(columns, row.where, row.values)
        if isinstance(found, Problem):
            problems.append(found)
        elif found is not None:
            examples.append(found)
        if len(problems) > MAX_PROBLEMS or (limit is not None and len(examples) >= limit):
            break
    if not problems and not examples:
        problems.append(Problem("there are no rows in it", where=part.where))
    if problems:
        raise FileError(problems)
    return tuple(examples)
