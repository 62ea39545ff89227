"""Every notebook in docs runs from top to bottom, and what it holds is what it gives.

Cells run in order in this process, which has imported what a kernel of its own would import anew for each of them:
in one namespace and an empty folder, as the examples of pages do. `--regenerate` writes what they print and draw into
the notebooks, for readers of the pages made of them.
"""

from __future__ import annotations

import base64
import io
import json
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from docs.notebooks.pages import on_files, page
from tests.test_examples import relative
from tests.test_layers import ROOT

FOLDER = ROOT / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
LARGEST = 100_000
"""Bytes of a notebook, pictures included."""


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def figures() -> list[dict[str, Any]]:
    """The figures that are open, as a notebook holds them; they are closed, as a kernel does after a cell."""
    import matplotlib.pyplot as plt

    found = []
    for number in plt.get_fignums():
        drawn = io.BytesIO()
        figure = plt.figure(number)
        figure.savefig(drawn, format="png", dpi=72, metadata={"Software": None})
        data = {"image/png": base64.b64encode(drawn.getvalue()).decode() + "\n", "text/plain": [str(figure)]}
        found.append({"data": data, "metadata": {}, "output_type": "display_data"})
    plt.close("all")
    return found


def run_cell(where: str, source: str, namespace: dict[str, object]) -> list[dict[str, Any]]:
    """Runs a cell; what it printed and drew."""
    printed = io.StringIO()
    with redirect_stdout(printed), redirect_stderr(io.StringIO()):
        exec(compile(source, where, "exec", dont_inherit=True), namespace)
    lines = printed.getvalue().splitlines(keepends=True)
    return [{"name": "stdout", "output_type": "stream", "text": lines}] * bool(lines) + figures()


def kinds(outputs: list[dict[str, Any]]) -> list[str]:
    return [output["output_type"] for output in outputs]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=relative)
def test_a_notebook_runs_and_holds_what_it_shows(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.chdir(tmp_path)
    notebook = read(path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    made = [
        run_cell(f"{relative(path)} [{number}]", "".join(cell["source"]), namespace)
        for number, cell in enumerate(code_cells(notebook), 1)
    ]
    assert not list(tmp_path.iterdir()), "a notebook leaves nothing behind"
    if request.config.getoption("--regenerate"):
        for number, (cell, outputs) in enumerate(zip(code_cells(notebook), made, strict=True), 1):
            cell.update(execution_count=number, outputs=outputs)
        path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", "utf-8")
    held = [kinds(cell["outputs"]) for cell in code_cells(notebook)]
    assert held == [kinds(outputs) for outputs in made], "what is stored is old: --regenerate"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=relative)
def test_a_notebook_is_small_and_runs_anywhere(path: Path) -> None:
    notebook = read(path)
    assert path.stat().st_size <= LARGEST
    assert (notebook["nbformat"], notebook["metadata"]["kernelspec"]["name"]) == (4, "python3")
    names = [cell["id"] for cell in notebook["cells"]]
    assert len(set(names)) == len(names)
    for number, cell in enumerate(code_cells(notebook), 1):
        lines = "".join(cell["source"]).splitlines()
        assert not [line for line in lines if line.lstrip().startswith(("%", "!"))], "only Python"
        assert cell["execution_count"] == number, "it was run from top to bottom"


def test_the_site_has_a_page_of_every_notebook() -> None:
    listed = (ROOT / "mkdocs.yml").read_text("utf-8")
    index = (FOLDER / "index.md").read_text("utf-8")
    assert len(NOTEBOOKS) == 5
    for path in NOTEBOOKS:
        assert f"notebooks/{path.stem}.md" in listed and f"]({path.stem}.md)" in index


def test_a_page_shows_cells_and_what_they_gave() -> None:
    drawn = {"image/png": base64.b64encode(b"drawn").decode() + "\n", "text/plain": ["<Figure>"]}
    code = {
        "cell_type": "code",
        "source": ["print(1)\n", "plot()"],
        "outputs": [
            {"output_type": "stream", "name": "stdout", "text": ["1\n"]},
            {"output_type": "display_data", "metadata": {}, "data": drawn},
            {"output_type": "execute_result", "metadata": {}, "data": {"text/plain": ["'a'"]}},
        ],
    }
    text, pictures = page("x", {"cells": [{"cell_type": "markdown", "source": ["# A title\n", "\n", "b"]}, code]})
    assert text.startswith("# A title\n\nb\n\n```python\nprint(1)\nplot()\n```\n\n```text\n1\n```\n\n![")
    assert "](x-1.png)\n\n```text\n'a'\n```" in text and text.endswith("(x.ipynb)\n")
    assert pictures == {"x-1.png": b"drawn"}


def test_mkdocs_gets_pages_beside_the_notebooks(tmp_path: Path) -> None:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import File, Files

    config = MkDocsConfig()
    config.load_dict({"site_name": "x", "docs_dir": str(tmp_path), "site_dir": str(tmp_path / "site")})
    config.plugins = SimpleNamespace(_current_plugin=None)  # type: ignore[assignment]
    source = json.dumps({"cells": [{"cell_type": "markdown", "source": ["# One"]}]})
    files = on_files(Files([File.generated(config, "notebooks/one.ipynb", content=source)]), config)
    assert sorted(file.src_uri for file in files) == ["notebooks/one.ipynb", "notebooks/one.md"]
    made = files.get_file_from_path("notebooks/one.md")
    assert made is not None and made.is_documentation_page() and made.content_string.startswith("# One\n")
