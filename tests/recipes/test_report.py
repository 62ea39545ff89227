"""Reports: what they show, that they need nothing but themselves, and that every text in them is but a text."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from compose.errors import FileError
from compose.recipes.report.graph import draw_graph
from compose.recipes.report.markdown import code, escape
from compose.recipes.report.page import INK
from compose.recipes.report.runs import read_run, read_runs, systems_of
from compose.recipes.report.scores import summed
from compose.recipes.report.write import page_of, report
from tests.recipes.results import EVIL, finished

VOID = {"meta", "br", "img", "link", "hr"}


class Reader(HTMLParser):
    """Reads a page: its elements, their attributes and texts; every one must be closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reports")
    finished(folder / "one")
    finished(folder / "three", (1, 2, 3))
    finished(folder / "lower", (1, 2, 3), score=0.6)
    report([folder / "three"], folder / "out", per_layer=True)
    return folder


def test_the_page_needs_nothing_else(place: Path) -> None:
    page = (place / "out" / "report.html").read_text("utf-8")
    read = Reader(page)
    tags = {tag for tag, _ in read.elements}
    assert not tags & {"script", "link", "iframe", "object", "image", "img", "b"}
    ids = [attributes["id"] for _, attributes in read.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in read.elements:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "xlink:href"):
            assert attributes.get(name, "#").startswith("#"), (tag, attributes)
    assert "@media (prefers-color-scheme: dark)" in page and 'name="viewport"' in page
    assert INK not in page and "currentColor" in page
    assert not re.search(r"url\((?!#)", page)


def test_the_page_shows_everything(place: Path) -> None:
    read = Reader((place / "out" / "report.html").read_text("utf-8"))
    titles = ["Scores", "Training", "What it costs", "Adapters dropped from the first layers", "Where fusions look",
              "What is taken for what", "What runs", "One pass against a pass for each task", "Answers",
              "Texts that were cut", "Do it again"]  # fmt: skip
    assert all(read.texts.count(title) == 2 for title in titles)  # in the list of parts, and above each
    assert sum(tag == "svg" for tag, _ in read.elements) == 6
    assert EVIL in read.texts and f"head {EVIL}" in read.texts
    assert f"$ compose run {place / 'three' / 'resolved.yaml'}" in "".join(read.texts)
    assert "$ compose run RECIPE --set 'name=a b'" in read.texts
    assert {"layer 0", "layer 1"} <= set(read.texts)
    layers = Reader(report([place / "three"], place / "short").read_text("utf-8"))
    assert not {"layer 0", "layer 1"} & set(layers.texts)


def test_the_same_results_give_the_same_report(place: Path) -> None:
    again = report([place / "three"], place / "again", per_layer=True).parent
    names = sorted(path.name for path in again.iterdir())
    assert names == sorted(path.name for path in (place / "out").iterdir())
    assert all((again / name).read_bytes() == (place / "out" / name).read_bytes() for name in names)


def test_markdown_has_its_pictures_beside_it(place: Path) -> None:
    text = (place / "out" / "report.md").read_text("utf-8")
    shown = re.findall(r"!\[[^]]*\]\(([^)]+)\)", text)
    assert set(shown) == {path.name for path in (place / "out").glob("*.svg")} and len(shown) == 6
    for name in shown:
        picture = ElementTree.fromstring((place / "out" / name).read_text("utf-8"))
        assert picture.tag == "{http://www.w3.org/2000/svg}svg"
        assert not [part for part in picture.iter() if part.tag.endswith(("script", "image"))]
    lines = text.splitlines()
    # Seeds 0.8, 0.85, 0.9: deviation 0.05, and 4.3027 · 0.05 / √3 is 12.4 points.
    assert "| mean             | 85.0 ± 12.4 (5.0) | 75.0 ± 12.4 (5.0) |" in lines
    differences = r"| TF-IDF | -10.0 ± 0.0 \* | -10.0 ± 0.0 \* | -10.0 ± 0.0 \* |"
    assert differences in [" ".join(line.split()) for line in lines]
    assert "</script>" not in text.replace("\\</script\\>", "").replace(f'`` Parallel("topic", "{EVIL}") ``', "")


def test_one_seed_has_no_intervals(place: Path) -> None:
    text = (report([place / "one"], place / "single").parent / "report.md").read_text("utf-8")
    assert "| mean             |     80.0 |   70.0 |" in text and "±" not in text
    assert "by how much it would vary is not known" in text


def test_several_runs_are_set_side_by_side(place: Path) -> None:
    runs = read_runs([place / "three", place / "lower"])
    assert [run.name for run in runs] == ["three", "lower"]
    labels = [system.label for system in systems_of(runs)]
    assert labels == ["three: composed", "three: TF-IDF", "lower: composed", "lower: TF-IDF"]
    first, _, third, _ = systems_of(runs)
    apart = third.above(first, None)
    assert apart is not None and apart.mean == pytest.approx(-0.2) and apart.half == pytest.approx(0, abs=1e-9)
    page = Reader(report([place / "three", place / "lower"], place / "both").read_text("utf-8"))
    assert {"three: both", "lower: mean", "three: composed"} <= set(page.texts)
    one = read_runs([place / "three", place / "one"])  # they share a seed
    assert systems_of(one)[2].above(systems_of(one)[0], None) is not None


def test_pictures_can_be_left_out(place: Path) -> None:
    page = page_of(read_runs([place / "three"]), plots=False)
    assert not page.figures()


def test_what_is_no_complete_run_is_refused(place: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "half.partial").mkdir()
    (tmp_path / "half.partial" / "INCOMPLETE").write_text("made began at noon and has not ended\n")
    finished(tmp_path / "other", tasks=("topic",))
    folders = [tmp_path / name for name in ("none", "empty", "half", "half.partial", "other")]
    with pytest.raises(FileError) as caught:
        report([place / "one", *folders], tmp_path / "out")
    said = str(caught.value)
    for line in (
        f"{tmp_path / 'none'}: there is no such folder",
        f"{tmp_path / 'empty'}: is no run",
        f"{tmp_path / 'half'}: the run is not complete",
        f"{tmp_path / 'half.partial'}: the run is not complete",
        "why: made began at noon and has not ended",
        f"{tmp_path / 'other'}: has other tasks (topic) than {place / 'one'} (topic, town)",
    ):
        assert line in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda folder: (folder / "metrics.json").write_text("{}"), "is not what the run wrote"),
        (lambda folder: (folder / "metrics.json").unlink(), "cannot be read"),
        (lambda folder: (folder / "resolved.yaml").unlink(), "cannot be read"),
        (lambda folder: (folder / "run.json").write_text("{"), "is no run"),
    ],
)
def test_damaged_runs_are_refused(tmp_path: Path, change: Any, what: str) -> None:
    change(finished(tmp_path / "run"))
    with pytest.raises(FileError, match=what):
        read_run(tmp_path / "run")


def test_other_metrics_of_a_task_are_not_compared(tmp_path: Path) -> None:
    one, other = finished(tmp_path / "one"), finished(tmp_path / "other")
    changed = json.loads((other / "metrics.json").read_text())
    changed["main"]["topic"] = "other"
    (other / "metrics.json").write_text(json.dumps(changed))
    manifest = json.loads((other / "run.json").read_text())
    (other / "run.json").write_text(json.dumps({**manifest, "sha256": {}}))
    with pytest.raises(FileError, match="task 'topic' is measured by other, but by accuracy in"):
        read_runs([one, other])


def test_runs_without_what_newer_ones_record_are_reported(tmp_path: Path) -> None:
    old = finished(tmp_path / "old")
    kept = ("recipe", "seed", "stages", "main", "scores", "means")
    metrics = json.loads((old / "metrics.json").read_text())
    (old / "metrics.json").write_text(json.dumps({key: metrics[key] for key in kept}))
    manifest = json.loads((old / "run.json").read_text())
    (old / "run.json").write_text(json.dumps({**manifest, "sha256": {}}))
    text = (report([old], tmp_path / "out").parent / "report.md").read_text("utf-8")
    assert "## Scores" in text and "## Where fusions look" not in text


def test_confusions_of_seeds_add_up() -> None:
    one = {"labels": ["a", "b"], "counts": [[1, 2], [3, 4]]}
    other = {"labels": ["b", "c"], "counts": [[5, 6], [7, 8]]}
    found = summed("x", [one, other])
    assert found.columns == ["a", "b", "c"] and found.values == [[1, 2, 0], [3, 9, 6], [0, 7, 8]]


def test_graphs_are_drawn_without_boxes_over_each_other() -> None:
    boxes = [{"lines": ["input"], "sources": []}]
    boxes += [{"lines": [f"branch {number}", "ffn: " + "x" * 60], "sources": [0]} for number in range(4)]
    boxes += [{"lines": ["join"], "sources": [1, 2, 3, 4]}]
    root = ElementTree.fromstring(draw_graph("g", boxes, "").svg)
    found = [
        tuple(float(rect.attrib[key]) for key in ("x", "y", "width", "height"))
        for rect in root.iter("{http://www.w3.org/2000/svg}rect")
    ]
    assert len(found) == 6
    for number, (x, y, width, height) in enumerate(found):
        for left, top, across, down in found[:number]:
            assert x >= left + across or left >= x + width or y >= top + down or top >= y + height
    left, top, width, height = map(float, root.attrib["viewBox"].split())
    assert all(left <= x and x + w <= left + width and y + h <= top + height for x, y, w, h in found)


def test_markdown_takes_texts_for_texts() -> None:
    assert escape("a|b*c_d <e> [f](g) `h`") == r"a\|b\*c_d \<e\> \[f\](g) \`h\`"
    assert escape("two\nlines") == "two lines"
    assert code("a`b") == "`` a`b ``"
