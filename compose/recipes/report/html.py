"""A report as one page of HTML that needs nothing else: styles and pictures are in it, and no script."""

from __future__ import annotations

import re
from html import escape
from pathlib import Path
from string import Template

from compose.recipes.report.page import Block, Code, Figure, Inline, Items, Mono, Page, Quote, Section, Sub, Table, Text
from compose.recipes.report.svg import inline

TEMPLATE = Path(__file__).with_name("page.html")
SIZE = re.compile(r'<svg [^>]*?viewBox="\S+ \S+ (\S+) \S+"')


def to_html(page: Page) -> str:
    """The text of the page."""
    shown = [section for section in page.sections if section.blocks]
    links = "\n".join(f'<a href="#{_anchor(section)}">{escape(section.title)}</a>' for section in shown)
    parts = "\n".join(
        f'<section id="{_anchor(section)}">\n<h2>{escape(section.title)}</h2>\n{_blocks(section.blocks)}\n</section>'
        for section in shown
    )
    template = Template(TEMPLATE.read_text("utf-8"))
    return template.substitute(title=escape(page.title), lead=_blocks(page.lead), links=links, sections=parts)


def _anchor(section: Section) -> str:
    return re.sub(r"[^a-z0-9]+", "-", section.title.lower()).strip("-")


def _blocks(blocks: tuple[Block, ...]) -> str:
    return "\n".join(map(_block, blocks))


def _block(block: Block) -> str:
    match block:
        case Text(parts):
            return f"<p>{_inline(parts)}</p>"
        case Items(rows):
            return "<ul>" + "".join(f"<li>{_inline(row)}</li>" for row in rows) + "</ul>"
        case Table(header, rows):
            head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in header)
            body = "".join(
                f'<tr><th scope="row">{escape(row[0])}</th>'
                + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])
                + "</tr>\n"
                for row in rows
            )
            return f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>'
        case Figure(_, svg, alt):
            label = escape(alt)
            return f'<figure class="wide" role="img" aria-label="{label}">{_sized(inline(svg))}</figure>'
        case Code(text):
            return f"<pre><code>{escape(text)}</code></pre>"
        case Quote(text):
            return f"<blockquote>{escape(text)}</blockquote>"
        case Sub(title):
            return f"<h3>{escape(title)}</h3>"


def _inline(parts: tuple[Inline, ...]) -> str:
    return "".join(f"<code>{escape(part.text)}</code>" if isinstance(part, Mono) else escape(part) for part in parts)


def _sized(svg: str) -> str:
    """A picture that shrinks with the page, but not until its texts cannot be read."""
    found = SIZE.search(svg)
    width = float(found[1]) if found else 480.0
    return svg.replace("<svg ", f'<svg style="min-width:{min(width, 480.0):.0f}px" ', 1)
