"""A report as data, before it is HTML or Markdown. All texts are data: whoever renders them escapes them."""

from __future__ import annotations

from dataclasses import dataclass

INK = "#010203"
"""The colour in pictures that becomes that of the text around them, whatever the page's colours are."""


@dataclass(frozen=True)
class Mono:
    """A name or an expression within a text."""

    text: str


Inline = str | Mono


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    parts: tuple[Inline, ...]


@dataclass(frozen=True)
class Items:
    """A list."""

    rows: tuple[tuple[Inline, ...], ...]


@dataclass(frozen=True)
class Table:
    """A table: numbers to the right, but for the first column."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Figure:
    """A picture.

    Args:
        name: of its file, without an ending.
        svg: the picture, its lines and texts in `INK`.
        alt: what it shows, for those who do not see it.
    """

    name: str
    svg: str
    alt: str


@dataclass(frozen=True)
class Code:
    """Lines as they are typed."""

    text: str


@dataclass(frozen=True)
class Quote:
    """A text that somebody wrote."""

    text: str


@dataclass(frozen=True)
class Sub:
    """A title within a section."""

    title: str


Block = Text | Items | Table | Figure | Code | Quote | Sub


@dataclass(frozen=True)
class Section:
    """A part of a report; without blocks it is left out."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Page:
    """A whole report."""

    title: str
    lead: tuple[Block, ...]
    sections: tuple[Section, ...]

    def figures(self) -> tuple[Figure, ...]:
        """All its pictures."""
        blocks = (*self.lead, *(block for section in self.sections for block in section.blocks))
        return tuple(block for block in blocks if isinstance(block, Figure))


def text(*parts: Inline) -> Text:
    """A paragraph of parts."""
    return Text(parts)


def rows_of(header: list[str], rows: list[list[str]]) -> Table:
    """A table of lists."""
    return Table(tuple(header), tuple(map(tuple, rows)))
