"""`compose methods`, and the page that has its table."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from compose.cli import _exit_code
from compose.cli.methods import Format, spec_of, table
from compose.methods.presets import PRESETS
from compose.runtime.catalogue import BLOCKS, Entry, catalogue

PAGE = Path(__file__).resolve().parents[2] / "docs" / "methods" / "index.md"
START, END = "<!-- table -->\n", "\n<!-- end -->"


@cache
def entries() -> dict[str, Entry]:
    return {entry.preset: entry for entry in catalogue(spec_of(None))}


def test_the_page_has_the_table(request: pytest.FixtureRequest) -> None:
    text = PAGE.read_text("utf-8")
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    made = f"{before}{START}{table(list(entries().values()))}{END}{after}"
    if request.config.getoption("--regenerate", False):
        PAGE.write_text(made, "utf-8")
    assert made == PAGE.read_text("utf-8"), "pytest tests/cli/test_methods.py --regenerate"


def test_every_preset_is_there_once() -> None:
    older = {name for name, preset in PRESETS.items() if preset.about.startswith("an older name")}
    assert set(entries()) == set(PRESETS) - older


@pytest.mark.parametrize(
    ("preset", "count"),
    [("seq_bn", 894_528), ("vera", 18_624), ("loreft", 36_888), ("prefix_tuning", 9_872_384), ("unipelt", 11_083_376)],
)
def test_sizes(preset: str, count: int) -> None:
    assert entries()[preset].parameters == count


def test_files_are_in_proportion() -> None:
    """Not twice the bytes of what is trained, but VeRA's, which hold the shared factors too."""
    for entry in entries().values():
        if entry.preset not in ("vera", "dvora"):
            assert entry.file_bytes < 2 * 4 * entry.parameters + 20_000, entry.preset


def test_blocks() -> None:
    assert entries()["seq_bn"].alike == entries()["seq_bn"].mixed == tuple(BLOCKS)
    assert "Fuse" not in entries()["bitfit"].alike and "Split" not in entries()["prompt_tuning"].mixed


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert _exit_code(["methods", "--format", "markdown"]) == 0
    assert table(list(entries().values()), Format.markdown) in capsys.readouterr().out
