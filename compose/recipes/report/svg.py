"""Matplotlib's figures as SVG that fits into a page: no colours of its own for text, no identifiers that clash."""

from __future__ import annotations

import io
import re
import warnings
from typing import Any

from compose.recipes.report.page import INK
from compose.train.extras import require

MIDDLE = "#808080"
"""Ink of a picture that stands alone: legible on white and on black."""

STYLE = {
    "svg.fonttype": "none",  # texts stay texts: small, to be searched and read aloud
    "text.parse_math": False,  # names are data: a dollar in one begins no formula
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    **{f"{part}.color": INK for part in ("text", "xtick", "ytick")},
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "legend.frameon": False,
    "legend.fontsize": 9,
}

FONTS = re.compile(r"'DejaVu Sans'[^;\"]*")
IDS = re.compile(r' id="([^"]*)"')
USED = re.compile(r'(?:url\(|href=")#([^")]+)')
HEADER = re.compile(r"^.*?(?=<svg)", re.DOTALL)
METADATA = re.compile(r"\s*<metadata>.*?</metadata>", re.DOTALL)
RULES = re.compile(r"\s*<style[^>]*>.*?</style>", re.DOTALL)


def drawn(name: str, draw: Any) -> str:
    """The SVG of a figure.

    Args:
        name: of the figure; keeps its identifiers apart from those of others.
        draw: makes it: takes matplotlib's `Figure` class, gives a figure.
    """
    matplotlib = require("matplotlib")
    figures = require("matplotlib.figure")
    require("matplotlib.backends.backend_svg")
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # letters that matplotlib's own font lacks: whoever shows the page has them
        figure = draw(figures.Figure)
        stream = io.StringIO()
        # Without date and version the same results give the same file.
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return plain(stream.getvalue())


def plain(svg: str) -> str:
    """An SVG of matplotlib without what a page has no use for."""
    for pattern, instead in ((HEADER, ""), (METADATA, ""), (RULES, ""), (FONTS, "sans-serif")):
        svg = pattern.sub(instead, svg)
    used = set(USED.findall(svg))
    return IDS.sub(lambda found: found[0] if found[1] in used else "", svg).strip() + "\n"


def inline(svg: str) -> str:
    """A picture for the inside of a page: its ink is that of the page's text."""
    return svg.replace(INK, "currentColor")


def alone(svg: str) -> str:
    """A picture as a file of its own."""
    return svg.replace(INK, MIDDLE)
