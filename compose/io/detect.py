"""Whose folder is this, and what is in it?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from compose.errors import FileError
from compose.io.view import View

Kind = Literal["adapter", "fusion", "head", "composition"]
Format = Literal["native", "adapterhub", "peft"]
FORMATS: tuple[Format, ...] = get_args(Format)

SIGNS: tuple[tuple[str, Format, Kind], ...] = (
    ("composition.json", "native", "composition"),
    ("adapter.json", "native", "adapter"),
    ("fusion.json", "native", "fusion"),
    ("head.json", "native", "head"),
    ("adapter_setup.json", "adapterhub", "composition"),
    ("adapter_config.json", "adapterhub", "adapter"),
    ("adapter_fusion_config.json", "adapterhub", "fusion"),
    ("head_config.json", "adapterhub", "head"),
)
"""The file that tells each kind of thing, and whose it is."""

_ARTICLES = {"adapter": "an"}
_SHOWN = 12


@dataclass(frozen=True)
class Contents:
    """What a folder holds.

    Args:
        view: the folder.
        kinds: the kinds of things in it, each with its format.
    """

    view: View
    kinds: dict[Kind, Format]


def detect(folder: str | Path) -> Contents:
    """What a folder holds, and in whose format.

    Raises:
        FileError: nothing that can be read, with what was found; or one thing in two formats.
    """
    view = View(folder)
    kinds: dict[Kind, Format] = {}
    for sign, form, kind in SIGNS:
        if not view.has(sign):
            continue
        if sign == "adapter_config.json" and _is_peft(view):
            form = "peft"  # both call their config so
        if kinds.get(kind, form) != form:
            raise FileError(
                f"holds one {kind} in the {kinds[kind]} format and one in the {form} format", where=str(view.path)
            )
        kinds[kind] = form
    if not kinds:
        found = _listing(view.path)
        raise FileError(
            "holds no adapter, fusion, head or composition",
            where=str(view.path),
            why=f"found: {found}" if found else "it is empty",
            hint="a folder with one of " + ", ".join(sign for sign, _, _ in SIGNS),
        )
    return Contents(view, kinds)


def expect(folder: str | Path, kind: Kind) -> tuple[View, Format]:
    """The folder and its format, if it holds a `kind`.

    Raises:
        FileError: it does not; the error says what it holds instead.
    """
    contents = detect(folder)
    if kind not in contents.kinds:
        found = ", ".join(f"{_ARTICLES.get(name, 'a')} {name} ({form} format)" for name, form in contents.kinds.items())
        raise FileError(f"holds no {kind}", where=str(contents.view.path), why=f"it holds {found}")
    return contents.view, contents.kinds[kind]


def _is_peft(view: View) -> bool:
    try:
        return "peft_type" in view.manifest("adapter_config.json")
    except FileError:  # damaged: the reader says how
        return False


def _listing(path: Path) -> str:
    try:
        names = sorted(entry.name + "/" * entry.is_dir() for entry in path.iterdir())
    except OSError:
        return ""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(repr(name)[1:-1][:80] for name in names[:_SHOWN]) + more
