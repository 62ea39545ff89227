"""Makes a page of every notebook: a hook of mkdocs, with no more to install than mkdocs itself."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files


class Page(NamedTuple):
    """A notebook as a page.

    Args:
        text: its Markdown.
        figures: its pictures, by the names that the text has for them.
    """

    text: str
    figures: dict[str, bytes]


def page(name: str, notebook: dict[str, Any]) -> Page:
    """A notebook's cells in their order, what they printed and drew below them.

    Args:
        name: the notebook's file, without the ending.
        notebook: what is in the file.
    """
    parts: list[str] = []
    figures: dict[str, bytes] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            parts.append("".join(cell["source"]))
            continue
        parts.append(_fence("python", "".join(cell["source"])))
        for kind, content in shown(cell):
            if kind == "image/png":
                picture = f"{name}-{len(figures) + 1}.png"
                figures[picture] = base64.b64decode(content)
                parts.append(f"![What this cell draws]({picture})")
            else:
                parts.append(_fence("text", content))
    parts.append(f"[This page as a notebook]({name}.ipynb)")
    return Page("\n\n".join(parts) + "\n", figures)


def shown(cell: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What a code cell printed (`text/plain`) and drew (`image/png`, in base64)."""
    for output in cell["outputs"]:
        if output["output_type"] == "stream":
            yield "text/plain", "".join(output["text"])
        else:
            kind = "image/png" if "image/png" in output["data"] else "text/plain"
            yield kind, "".join(output["data"][kind])


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Called by mkdocs: adds the pages to its files; the notebooks stay there, to be downloaded."""
    from mkdocs.structure.files import File

    for file in [file for file in files if file.src_uri.endswith(".ipynb")]:
        path = PurePosixPath(file.src_uri)
        made = page(path.stem, json.loads(file.content_string))
        contents = {f"{path.stem}.md": made.text, **made.figures}
        for name, content in contents.items():
            files.append(File.generated(config, str(path.with_name(name)), content=content))
    return files


def _fence(language: str, text: str) -> str:
    return f"```{language}\n{text.rstrip()}\n```"
