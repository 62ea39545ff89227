"""Writes reports: the page, its Markdown and the pictures of that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from compose.errors import FileError
from compose.recipes.report import costs, findings, scores
from compose.recipes.report.html import to_html
from compose.recipes.report.markdown import to_markdown
from compose.recipes.report.page import Block, Page, Sub
from compose.recipes.report.runs import Run, read_complete, read_runs
from compose.recipes.report.svg import alone
from compose.recipes.report.sweep import sweep_page
from compose.recipes.report.trials import read_sweep

Write = Callable[[str, str], None]
"""Writes a text under a name."""

HTML, MARKDOWN = "report.html", "report.md"


def report(folders: Sequence[Path], out: Path | None = None, per_layer: bool = False) -> Path:
    """Reports finished runs side by side.

    Args:
        folders: of the runs, or of one sweep.
        out: the folder for the report; by default `reports/` and the runs' names.
        per_layer: whether to show where fusions look in each layer.

    Returns:
        The page; beside it are its Markdown, and the pictures of that.

    Raises:
        FileError: a folder that is no run, is not complete or is damaged, runs of different tasks, or a place that
            cannot be written.
    """
    if len(folders) == 1 and "members" in read_complete(folders[0]):
        found = read_sweep(folders[0])
        return _written(sweep_page(found), out or Path("reports") / found.name)
    runs = read_runs(folders)
    names = "-".join(run.name for run in runs)[:80]
    return _written(page_of(runs, per_layer=per_layer), out or Path("reports") / names)


def _written(page: Page, target: Path) -> Path:
    try:
        target.mkdir(parents=True, exist_ok=True)
        write_page(page, lambda name, text: _write(target / name, text))
    except OSError as error:
        raise FileError(f"cannot be written: {error.strerror or error}", where=str(target)) from None
    return target / HTML


def page_of(runs: Sequence[Run], plots: bool = True, per_layer: bool = False) -> Page:
    """The report of some runs.

    Args:
        runs: whose tasks are the same.
        plots: whether it has pictures.
        per_layer: whether to show where fusions look in each layer.
    """
    lead: list[Block] = []
    for run in runs:
        lead += [*([Sub(run.name)] if len(runs) > 1 else []), *findings.lead(run)]
    sections = (
        scores.scores(runs, plots),
        costs.training(runs, plots),
        costs.costs(runs),
        findings.curve(runs, plots, findings.DROP),
        findings.curve(runs, plots, findings.FUSION),
        findings.fusions(runs, plots, per_layer),
        scores.details(runs, plots),
        costs.graphs(runs, plots),
        findings.compare(runs),
        findings.answers(runs),
        findings.cut(runs),
        costs.again(runs),
    )
    return Page(" and ".join(run.name for run in runs), tuple(lead), sections)


def write_page(page: Page, write: Write) -> None:
    """Writes a report in all its forms.

    Args:
        page: the report.
        write: writes a text under a name.
    """
    write(HTML, to_html(page))
    write(MARKDOWN, to_markdown(page))
    for figure in page.figures():
        write(f"{figure.name}.svg", alone(figure.svg))


def _write(path: Path, text: str) -> None:
    path.write_text(text, "utf-8")
