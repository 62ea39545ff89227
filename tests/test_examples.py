"""Every example in README and docs runs.

Python blocks of a page run in order, in one namespace and an empty folder. In console blocks the lines
that begin with `$ compose` run, and what is printed must hold the lines shown, in order; `...` stands for
anything. A comment on the line before the fence changes that:

    <!-- no-run: the reason -->    it is not run
    <!-- exit: 2 -->               the commands end with this exit code
"""

from __future__ import annotations

import io
import re
import shlex
import textwrap
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import pytest

from compose.cli import main
from tests.test_layers import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^(?P<indent>\s*)(?P<ticks>`{3,})\s*(?P<language>[\w+-]*)[^`]*$")
COMMENT = re.compile(r"<!--\s*(?P<key>[\w-]+)(:\s*(?P<value>.*?))?\s*-->")
LANGUAGES = {"python", "py", "console"}


class Block(NamedTuple):
    """A fenced block: its language, its text, the number of its first line, the comment before it."""

    language: str
    text: str
    line: int
    mark: dict[str, str]


class Command(NamedTuple):
    """A command of a console block and the lines shown below it."""

    words: list[str]
    shown: list[str]


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a page."""
    found: list[Block] = []
    lines = text.splitlines()
    number = 0
    while number < len(lines):
        opening = FENCE.match(lines[number])
        if not opening:
            number += 1
            continue
        before = next((line for line in reversed(lines[:number]) if line.strip()), "")
        comment = COMMENT.fullmatch(before.strip())
        mark = {comment["key"]: comment["value"] or ""} if comment else {}
        end = number + 1
        while end < len(lines) and lines[end].strip() != opening["ticks"]:
            end += 1
        body = textwrap.dedent("\n".join(lines[number + 1 : end]))
        found.append(Block(opening["language"], body, number + 2, mark))
        number = end + 1
    return found


def commands(block: Block) -> list[Command]:
    """The `$ compose` commands of a console block; a backslash at a line's end continues it."""
    found: list[Command] = []
    ours = False
    for line in block.text.replace("\\\n", " ").splitlines():
        if line.startswith("$ "):
            words = shlex.split(line[2:], comments=True)
            ours = words[0] == "compose"
            if ours:
                found.append(Command(words[1:], []))
        elif ours and line.strip():
            found[-1].shown.append(line)
    return found


def loosely(line: str) -> re.Pattern[str]:
    """A pattern for a line shown: any run of spaces is like any other, `...` is anything."""
    pieces = [r"\s+".join(map(re.escape, piece.split())) for piece in re.split(r"\.\.\.|…", line)]
    return re.compile(r".*?".join(pieces))


def missing(shown: list[str], printed: str) -> str | None:
    """The first line shown that is not printed after those before it."""
    rest = iter(printed.splitlines())
    for line in shown:
        pattern = loosely(line)
        if not any(pattern.search(other) for other in rest):
            return line
    return None


def run_command(command: Command, code: int) -> None:
    """Runs it in this process, which has imported all that another would import anew."""
    out = io.StringIO()
    with redirect_stdout(out), redirect_stderr(out), pytest.raises(SystemExit) as stop:
        main(command.words)
    printed = out.getvalue()
    assert stop.value.code == code, f"compose {shlex.join(command.words)}\n{printed}"
    line = missing(command.shown, printed)
    assert line is None, f"compose {shlex.join(command.words)}\nnot printed: {line}\n\n{printed}"


def runs(block: Block) -> bool:
    return block.language in LANGUAGES and "no-run" not in block.mark


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(map(runs, blocks(page.read_text("utf-8"))))], ids=relative
)
def test_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    torch.manual_seed(0)
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in filter(runs, blocks(page.read_text("utf-8"))):
        if block.language == "console":
            for command in commands(block):
                run_command(command, int(block.mark.get("exit", "0")))
        else:
            # Empty lines before it make a traceback show the page's own line numbers.
            code = compile("\n" * (block.line - 1) + block.text, relative(page), "exec", dont_inherit=True)
            exec(code, namespace)


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_what_is_not_run_says_why(page: Path) -> None:
    text = page.read_text("utf-8")
    silent = [block.line for block in blocks(text) if block.mark.get("no-run", "reason") == ""]
    assert not silent
    closed = [line for line in text.splitlines() if FENCE.match(line)]
    assert len(closed) % 2 == 0, "a fence is not closed"


def test_the_readme_shows_the_two_commands_and_runs_python() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert "make demo" in text and "make test" in text
    assert any(runs(block) for block in blocks(text) if block.language == "python")


def test_the_reader_of_pages() -> None:
    page = "\n".join(
        [
            "```python",
            "x = 1",
            "```",
            "<!-- no-run: needs a GPU -->",
            "",
            "    ```python",
            "    y = 2",
            "    ```",
            "<!-- exit: 2 -->",
            "```console",
            "$ make x",
            "made",
            "$ compose recipe \\",
            "    ls  # all of them",
            "quick...  data",
            "```",
        ]
    )
    first, second, third = blocks(page)
    assert (first.language, first.text, first.line, first.mark) == ("python", "x = 1", 2, {})
    assert second.text == "y = 2" and not runs(second) and second.mark == {"no-run": "needs a GPU"}
    assert third.mark == {"exit": "2"}
    assert commands(third) == [Command(["recipe", "ls"], ["quick...  data"])]


def test_output_is_compared_loosely() -> None:
    printed = "quickstart   four tasks\n  other\nlast 1.25 s\n"
    assert missing(["quick... tasks", "last ... s"], printed) is None
    assert missing(["last ... s", "quickstart"], printed) == "quickstart"
    assert missing(["quickstart five"], printed) == "quickstart five"
