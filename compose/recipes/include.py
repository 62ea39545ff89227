"""`include`: a recipe file whose keys are laid over those of others.

The included files come first, in their order, and the file's own keys win over them key by key: mappings are merged,
lists and single values replaced. A mapping of another `kind` or `method` replaces the whole one, and so does one that
loads what the other makes, since options of different kinds do not mix. Every value keeps the place in the file that it
came from.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from compose.errors import Problem, RecipeError
from compose.recipes.document import Document, KeyPath, Place
from compose.recipes.loader import MAX_BYTES, MAX_NODES, load_file

INCLUDE = "include"
MAX_CHAIN = 8
"""How many files may include one another, one within the next."""

CHOOSES = ("kind", "method")
"""Keys that say what the others mean."""

MAKES = (*CHOOSES, "expression")
"""Keys that have no meaning beside `load`."""


def load_recipe(path: str | Path) -> Document:
    """Read a recipe file with all that it includes.

    Args:
        path: the file.

    Returns:
        The recipe as one document, without `include`.

    Raises:
        RecipeError: a file cannot be read or is not a recipe's YAML, files include each other in a circle, or they are
            too large together.
    """
    return _Reader().read(Path(path), (), None)


def merged(base: Document, own: Document) -> Document:
    """A document laid over another: mappings key by key, all else replaced."""
    return _Merger(base, own).document()


class _Reader:
    """Reads files that include others, and counts what they hold together."""

    def __init__(self) -> None:
        self.bytes = self.values = 0

    def read(self, path: Path, chain: tuple[Path, ...], at: Place | None) -> Document:
        """A file with what it includes.

        Args:
            path: the file.
            chain: the files that include it, the outermost first.
            at: where it is included.
        """
        own = load_file(path)
        self.bytes += len(own.text.encode("utf-8"))
        self.values += len(own.values)
        where = at or own.place(())
        if self.bytes > MAX_BYTES:
            raise RecipeError(where.problem(f"all included files are larger than {MAX_BYTES >> 20} MiB together"))
        if self.values > MAX_NODES:
            raise RecipeError(where.problem(f"all included files have more than {MAX_NODES:,} values together"))
        if not isinstance(own.data, dict):
            if at is not None:
                raise RecipeError(own.place(()).problem("an included file holds a mapping"))
            return own
        if INCLUDE not in own.data:
            return own
        return self._over_included(own, (*chain, path))

    def _over_included(self, own: Document, chain: tuple[Path, ...]) -> Document:
        problems: list[Problem] = []
        base: Document | None = None
        for name, at in _included(own):
            try:
                found = self.read(_target(name, at, chain), chain, at)
            except RecipeError as error:
                problems += error.problems
                continue
            base = found if base is None else merged(base, found)
        if problems:
            raise RecipeError(problems)
        assert base is not None  # an empty list is a problem
        return merged(base, replace(own, data={key: value for key, value in own.data.items() if key != INCLUDE}))


def _included(own: Document) -> list[tuple[str, Place]]:
    """The files that a document names, each with its place.

    Raises:
        RecipeError: it names something else.
    """
    given = own.data[INCLUDE]
    names = [(given, own.place((INCLUDE,)))]
    if isinstance(given, list) and given:
        names = [(name, own.place((INCLUDE, number))) for number, name in enumerate(given)]
    wrong = [at for name, at in names if not isinstance(name, str) or not name]
    if wrong:
        raise RecipeError([at.problem("include takes the path of a file, or a list of such") for at in wrong])
    return [(str(name), at) for name, at in names]


def _target(name: str, at: Place, chain: tuple[Path, ...]) -> Path:
    """The file that is meant.

    Raises:
        RecipeError: there is no such file, or it is one of those that include it.
    """
    target = chain[-1].parent / name
    if not os.path.isfile(target):  # which, unlike Path.is_file, takes any name
        raise RecipeError(
            at.problem(f"there is no file '{target}'", why="paths are relative to the file they stand in")
        )
    places = [path.resolve() for path in chain]
    if target.resolve() in places:
        circle = [path.name for path in chain[places.index(target.resolve()) :]]
        raise RecipeError(at.problem("files include each other in a circle", why=" -> ".join([*circle, target.name])))
    if len(chain) >= MAX_CHAIN:
        raise RecipeError(at.problem(f"more than {MAX_CHAIN} files include one another"))
    return target


class _Merger:
    """Lays one document over another, with the places of both."""

    def __init__(self, base: Document, own: Document) -> None:
        self.base, self.own = base, own
        self.keys: dict[KeyPath, Place] = {}
        self.values: dict[KeyPath, Place] = {}

    def document(self) -> Document:
        data = self._laid_over(self.base.data, self.own.data, ())
        included = (*self.base.included, (self.base.source, self.base.text), *self.own.included)
        return Document(self.own.source, self.own.text, data, self.keys, self.values, tuple(dict.fromkeys(included)))

    def _laid_over(self, base: Any, own: Any, path: KeyPath) -> Any:
        both = isinstance(base, dict) and isinstance(own, dict)
        if not both or _differ(base, own):
            return self._taken(self.own, own, path)
        self._place(self.own, path)
        result = {}
        for key in dict.fromkeys((*base, *own)):
            here = (*path, key)
            if key in base and key in own:
                result[key] = self._laid_over(base[key], own[key], here)
            else:
                chosen, data = (self.own, own) if key in own else (self.base, base)
                result[key] = self._taken(chosen, data[key], here)
        return result

    def _taken(self, document: Document, value: Any, path: KeyPath) -> Any:
        """A value of one of the two as it is, with its places."""
        self._place(document, path)
        if isinstance(value, dict):
            return {key: self._taken(document, inner, (*path, key)) for key, inner in value.items()}
        if isinstance(value, list):
            return [self._taken(document, inner, (*path, number)) for number, inner in enumerate(value)]
        return value

    def _place(self, document: Document, path: KeyPath) -> None:
        for found, known in ((self.keys, document.keys), (self.values, document.values)):
            if path in known:
                found[path] = known[path]


def _differ(base: Mapping[str, Any], own: Mapping[str, Any]) -> bool:
    """Whether two mappings say by their kind that their other keys are of different things."""
    loads = [isinstance(mapping.get("load"), str) for mapping in (base, own)]
    if loads[0] != loads[1]:
        return loads[1] or any(key in own for key in MAKES)
    return any(key in base and key in own and base[key] != own[key] for key in CHOOSES)
