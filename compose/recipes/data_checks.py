"""What is wrong with a recipe's data: columns that do not go together, files without them, heads that do not fit."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from compose.errors import FileError, Problem
from compose.heads.spec import label_names
from compose.recipes.document import Document, KeyPath, dotted
from compose.recipes.schema import Bundled, Csv, DataSource, Head, Recipe, Table
from compose.recipes.shipped import bundled
from compose.recipes.sources import columns_of, parts_of
from compose.train.columns import TARGETS
from compose.train.data import Dataset, Example, Target
from compose.train.formats.row import FilePart
from compose.train.read import read_part

FIRST_ROWS = 20
"""How many rows of each file are looked at."""

ELSEWHERE = "--set data_folder=FOLDER, if these paths begin in another folder"
"""What helps where a file is not there."""

OF_TEXTS = ("entities", "answers")
"""What is marked by characters of a text."""

NEEDS: Mapping[str, tuple[Target, ...]] = {
    "tagging": ("entities", "tags"),
    "causal_lm": ("text",),
    "question_answering": ("answers",),
    "masked_lm": ("text",),
    "multi_label": ("labels",),
    "regression": ("score",),
}
"""What the data of a kind of head (or of a problem) must be labelled with; the others need a `label`."""


def source_problems(recipe: Recipe, document: Document) -> Iterator[Problem]:
    """What is wrong with the sources of a recipe, the first rows of their files included."""
    folder = Path(document.source).parent
    for name, source in recipe.data.items():
        path: KeyPath = ("data", name)
        problems = list(_columns(document, path, source))
        if not problems and isinstance(source, Bundled) and source.name not in bundled():
            place = document.place((*path, "name"))
            problems = [place.problem(f"there is no bundled data '{source.name}'", got=source.name, legal=bundled())]
        yield from problems or _rows(document, path, source, folder)


def modality_problems(recipe: Recipe, document: Document, modality: str) -> Iterator[Problem]:
    """Sources that a backbone cannot read.

    Args:
        recipe: the recipe.
        document: where things stand in it.
        modality: what its backbone reads.
    """
    for name, source in recipe.data.items():
        if (has := columns_of(source).modality) != modality:
            what = f"data.{name} has {has}s, but the backbone '{recipe.backbone.called}' reads {modality}s"
            yield document.place(("data", name), key=True).problem(what)


def mixed_modalities(recipe: Recipe, document: Document) -> Iterator[Problem]:
    """Sources that no backbone reads together with the first one."""
    has = {name: columns_of(source).modality for name, source in recipe.data.items()}
    for name in has:
        first = next(iter(has))
        if has[name] != has[first]:
            what = f"data.{name} has {has[name]}s, but data.{first} has {has[first]}s, and no backbone reads both"
            yield document.place(("data", name), key=True).problem(what)


def fit_problem(head: Head, name: str, source: DataSource) -> str | None:
    """Why a head cannot learn from a source of some name, in words that follow the head's; None if it can."""
    needs = NEEDS.get(str(head.options.get("problem", head.kind)), ("label",))
    target = columns_of(source).target
    if target in needs:
        return None
    return f"learns from {' or '.join(map(_told, needs))}, but data.{name} has {_told(target)}"


def lacking_labels(head: Head, source: DataSource, folder: Path) -> tuple[str, ...]:
    """The labels of a source that a head with labels of its own does not have, as far as the first rows show them.

    Labels that are not legal by themselves, which is told of at the head, lack nothing.

    Args:
        head: the head.
        source: the source.
        folder: where its relative paths begin.
    """
    own = own_labels(head)
    if not own:
        return ()
    columns = columns_of(source)
    found = Dataset("", columns.target, _first_rows(source, folder), names=columns.label_names()).labels()
    return tuple(label for label in found if label not in own)


def own_labels(head: Head) -> tuple[str, ...]:
    """The names of the labels that a head says, in the order of their ids; none where they are its data's, or wrong."""
    try:
        return label_names(head.labels) if head.labels is not None else ()
    except ValueError:
        return ()


def lacks_answers(head: Head, source: DataSource, folder: Path) -> bool:
    """Whether a source asks what has no answer, as far as the first rows show it, and the head always answers."""
    if head.kind != "question_answering" or head.options.get("unanswerable") is True:
        return False
    return any(not example.target for example in _first_rows(source, folder))


def _first_rows(source: DataSource, folder: Path) -> tuple[Example, ...]:
    """The first rows of a source's files; none where they cannot be read, which is told of at the source."""
    rows: list[Example] = []
    for part in parts_of(source, folder):
        if isinstance(part, FilePart):
            try:
                rows += read_part(part, columns_of(source), FIRST_ROWS)
            except FileError:
                return ()
    return tuple(rows)


def _told(target: Target) -> str:
    return "text alone" if target == "text" else target


def _columns(document: Document, path: KeyPath, source: DataSource) -> Iterator[Problem]:
    """What is wrong with the columns that a source names."""
    name, target = dotted(path), columns_of(source).target
    if isinstance(source, Table):
        given = [key for key in TARGETS if getattr(source, key)]
        if len(given) > 1 or (not given and source.text is None):
            said = " and ".join(given) or "none"
            what = f"{name} needs one of {', '.join(TARGETS[:-1])} and {TARGETS[-1]}; it has {said}"
            hint = "" if given else "text: COLUMN, if its texts alone are wanted"
            yield document.place(path, key=True).problem(what, hint=hint)
            return
        if source.tags and not source.tokens:
            yield document.place(path, key=True).problem(f"{name}: tags and tokens belong together")
            return
        if source.answers and source.pair is None:
            what = f"{name}: answers stand in a second text, and no pair is named"
            yield document.place((*path, "answers")).problem(what, hint="text: question, pair: context")
            return
        clash = [(key, "tokens") for key in ("text", "pair", *OF_TEXTS) if source.tokens and getattr(source, key)]
        clash += [("pair", "entities")] if source.entities and source.pair else []
        for key, other in clash[:1]:
            yield document.place((*path, key)).problem(f"{name}: {key} has no meaning beside {other}")
        for key in OF_TEXTS if isinstance(source, Csv) else ():
            if getattr(source, key):
                yield document.place((*path, key)).problem(f"{name}: a cell of a table as text holds no {key}")
    if source.label_map is not None and target in ("score", "answers", "text"):
        at = document.place((*path, "label_map"), key=True)
        yield at.problem(f"{name}: label_map has no meaning where there are no labels")
    if source.scheme != "bio" and target != "tags":
        yield document.place((*path, "scheme"), key=True).problem(f"{name}: scheme has no meaning without tags")


def _rows(document: Document, path: KeyPath, source: DataSource, folder: Path) -> Iterator[Problem]:
    """Whether a source's files are there, and their first rows are examples."""
    for key, part in parts_of(source, folder)._asdict().items():
        if not isinstance(part, FilePart):
            continue
        try:
            read_part(part, columns_of(source), FIRST_ROWS)
        except FileError as error:
            problem = error.problems[0]
            at = _key_of(source, problem) or ("name" if isinstance(source, Bundled) else key)
            why = f"{problem.where}: {problem.why}" if problem.why else problem.where
            what = f"{dotted(path)}: {problem.what}"
            hint = problem.hint if part.path.exists() else ELSEWHERE
            yield document.place((*path, at)).problem(what, why=why, got=problem.got, legal=problem.legal, hint=hint)
            return


def _key_of(source: DataSource, problem: Problem) -> str | None:
    """The key of a source that a row's problem is about: that of the column that it names, or the one that it names."""
    values = source.model_dump()
    keys = {str(value): key for key, value in values.items() if isinstance(value, str | int)} | {
        key: key for key in values
    }
    named = [problem.got, *re.findall(r"'([^']+)'", problem.what)]
    return next((keys[name] for name in named if name in keys), None)
