"""The execution graph as a picture: boxes from top to bottom, as `compose explain` draws them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from compose.recipes.report.page import INK, Figure

Drawn = Mapping[str, Any]
"""A box as `metrics.json` keeps it: its `lines`, the first its title, and the numbers of its `sources`."""

LINE = 17
PADDING = 9
GAP = (26, 34)
"""Between boxes: across, and down."""
LETTER = 7.0
"""About how wide a letter is."""
LONGEST = 44
"""Longer lines are cut; what stands in them is in the box's tooltip."""
SIZE = 12
ROUNDS = 4
"""How often boxes are moved towards those that they are joined to."""


class Placed(NamedTuple):
    """A box and its place: the middle of its upper edge."""

    x: float
    y: float
    width: float
    height: float


def draw_graph(name: str, boxes: Sequence[Drawn], alt: str) -> Figure:
    """The picture of a graph.

    Args:
        name: of the figure.
        boxes: each after those that lead to it.
        alt: what it shows.
    """
    levels = _levels(boxes)
    places = _places(boxes, levels)
    left = min(place.x - place.width / 2 for place in places)
    right = max(place.x + place.width / 2 for place in places)
    width, height = right - left + 4, max(place.y + place.height for place in places) + 4
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="{left - 2:.1f} -2 {width:.1f} {height:.1f}" role="img" '
        f'font-family="sans-serif" font-size="{SIZE}" fill="{INK}" stroke="none">'
    ]
    for number, box in enumerate(boxes):
        parts += [_arrow(places[source], places[number]) for source in box["sources"]]
    parts += [_box(box, place) for box, place in zip(boxes, places, strict=True)]
    return Figure(name, "\n".join([*parts, "</svg>\n"]), alt)


def _levels(boxes: Sequence[Drawn]) -> list[list[int]]:
    """The boxes by how many stand above them at most."""
    depth: list[int] = []
    for box in boxes:
        depth.append(1 + max((depth[source] for source in box["sources"]), default=-1))
    return [[number for number, at in enumerate(depth) if at == level] for level in range(max(depth) + 1)]


def _places(boxes: Sequence[Drawn], levels: Sequence[list[int]]) -> list[Placed]:
    """Where boxes stand: each near the middle of those that it is joined to."""
    sizes = [_size(box) for box in boxes]
    joined: list[list[int]] = [list(box["sources"]) for box in boxes]
    for number, box in enumerate(boxes):
        for source in box["sources"]:
            joined[source].append(number)
    xs = [0.0] * len(boxes)
    for level in levels:
        _spread(level, xs, sizes)
    for turn in range(ROUNDS):
        for level in levels if turn % 2 == 0 else reversed(levels):
            for number in level:
                if joined[number]:
                    xs[number] = sum(xs[other] for other in joined[number]) / len(joined[number])
            _spread(level, xs, sizes)
    places: list[Placed] = [Placed(0, 0, 0, 0)] * len(boxes)
    y = 0.0
    for level in levels:
        for number in level:
            places[number] = Placed(xs[number], y, *sizes[number])
        y += max(sizes[number][1] for number in level) + GAP[1]
    return places


def _size(box: Drawn) -> tuple[float, float]:
    lines = box["lines"]
    return max(len(_cut(line)) for line in lines) * LETTER + 2 * PADDING, len(lines) * LINE + 2 * PADDING - 4


def _spread(level: list[int], xs: list[float], sizes: Sequence[tuple[float, float]]) -> None:
    """Moves the boxes of a level apart, in their order, about where they were."""
    level.sort(key=lambda number: xs[number])
    wanted = sum(xs[number] for number in level) / len(level)
    edge = 0.0
    for place, number in enumerate(level):
        half = sizes[number][0] / 2
        xs[number] = max(xs[number], edge + half) if place else xs[number]
        edge = xs[number] + half + GAP[0]
    shift = wanted - sum(xs[number] for number in level) / len(level)
    for number in level:
        xs[number] += shift


def _arrow(start: Placed, end: Placed) -> str:
    top, bottom = start.y + start.height, end.y
    middle = (top + bottom) / 2
    line = f"M{start.x:.1f} {top:.1f}C{start.x:.1f} {middle:.1f} {end.x:.1f} {middle:.1f} {end.x:.1f} {bottom - 5:.1f}"
    tip = f"M{end.x - 4:.1f} {bottom - 7:.1f}L{end.x:.1f} {bottom:.1f}L{end.x + 4:.1f} {bottom - 7:.1f}Z"
    return f'<path d="{line}" fill="none" stroke="{INK}" stroke-opacity="0.55"/><path d="{tip}" fill-opacity="0.55"/>'


def _box(box: Drawn, place: Placed) -> str:
    left = place.x - place.width / 2
    parts = [
        f"<g><title>{escape(chr(10).join(box['lines']))}</title>",
        f'<rect x="{left:.1f}" y="{place.y:.1f}" width="{place.width:.1f}" height="{place.height:.1f}" rx="6" '
        f'fill-opacity="0.06" stroke="{INK}" stroke-opacity="0.6"/>',
    ]
    for number, line in enumerate(box["lines"]):
        y = place.y + PADDING + SIZE - 1 + number * LINE
        weight = ' font-weight="bold"' if number == 0 else ""
        parts.append(f'<text x="{place.x:.1f}" y="{y:.1f}" text-anchor="middle"{weight}>{escape(_cut(line))}</text>')
    return "".join([*parts, "</g>"])


def _cut(line: str) -> str:
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"
