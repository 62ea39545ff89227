"""A report as Markdown; pictures are files beside it."""

from __future__ import annotations

import re

from compose.recipes.console import table
from compose.recipes.report.page import Block, Code, Figure, Inline, Items, Mono, Page, Quote, Sub, Table, Text

SPECIAL = re.compile(r"[\\`*\[\]<>|]|(?<!\w)_|_(?!\w)")
FIRST = re.compile(r"^(\s*)([#+>-]|\d+[.)])(?=\s)")


def to_markdown(page: Page) -> str:
    """The text of a report."""
    parts = [f"# {escape(page.title)}", *map(_block, page.lead)]
    for section in page.sections:
        if section.blocks:
            parts += [f"## {escape(section.title)}", *map(_block, section.blocks)]
    return "\n\n".join(parts) + "\n"


def escape(text: str) -> str:
    """A text that means what it says, whatever characters are in it.

    >>> print(escape("a*b|<c>_d_ e_f"))
    a\\*b\\|\\<c\\>\\_d\\_ e_f
    """
    return SPECIAL.sub(lambda match: f"\\{match[0]}", _line(text))


def code(text: str) -> str:
    """A text as code, fenced by more backticks than are in it."""
    ticks = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    space = " " if "`" in text else ""
    return f"{ticks}{space}{_line(text)}{space}{ticks}"


def _line(text: str) -> str:
    return " ".join(text.split("\n")).strip()


def _inline(parts: tuple[Inline, ...]) -> str:
    found = "".join(code(part.text) if isinstance(part, Mono) else SPECIAL.sub(r"\\\g<0>", part) for part in parts)
    return FIRST.sub(r"\1\\\2", " ".join(found.split("\n")))


def _block(block: Block) -> str:
    match block:
        case Text(parts):
            return _inline(parts)
        case Items(rows):
            return "\n".join(f"- {_inline(row)}" for row in rows)
        case Table(header, rows):
            return table([*map(escape, header)], [[*map(escape, row)] for row in rows])
        case Figure(name, _, alt):
            return f"![{escape(alt)}]({name}.svg)"
        case Code(text):
            fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
            return f"{fence}console\n{text}\n{fence}"
        case Quote(text):
            return f"> {escape(text)}"
        case Sub(title):
            return f"### {escape(title)}"
