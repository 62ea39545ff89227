"""The wheel: what is in it, what is not, and that it works away from the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import compose
from tests.test_layers import ROOT

SHIPPED = "compose/recipes/shipped/"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as an installer lays it out, away from the checkout."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs Python in `folder` with the package that lies there, not the checkout's."""
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        timeout=300,
    )


def test_name_and_version(wheel: Path) -> None:
    assert wheel.name == f"compose_adapters-{compose.__version__}-py3-none-any.whl"


def test_metadata(unpacked: Path) -> None:
    (info,) = unpacked.glob("*.dist-info")
    metadata = Parser().parsestr((info / "METADATA").read_text("utf-8"))
    assert metadata["Name"] == "compose-adapters"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    assert {"train", "demo"} <= set(metadata.get_all("Provides-Extra", []))
    assert "compose = compose.cli:main" in (info / "entry_points.txt").read_text("utf-8")
    assert "Apache License" in (info / "licenses" / "LICENSE").read_text("utf-8")


def test_holds_the_package_and_nothing_else(unpacked: Path) -> None:
    files = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()}
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "compose").rglob("*.py")}
    assert modules | {"compose/py.typed", "compose/__init__.pyi"} <= files
    others = {name for name in files if not name.startswith("compose/") and ".dist-info/" not in name}
    assert not others
    assert not {name for name in files if "__pycache__" in name or Path(name).match("test_*.py")}


def test_holds_recipes_and_data(unpacked: Path) -> None:
    there = {
        path.relative_to(unpacked / SHIPPED).as_posix(): path.read_bytes()
        for path in (unpacked / SHIPPED).rglob("*")
        if path.is_file()
    }
    here = {
        path.relative_to(ROOT / "recipes").as_posix(): path.read_bytes()
        for path in (ROOT / "recipes").rglob("*")
        if path.is_file()
    }
    assert there == here
    assert "quickstart.yaml" in there and any(name.startswith("data/") for name in there)


def test_lists_its_recipes_away_from_the_checkout(unpacked: Path) -> None:
    where = run(unpacked, "-c", "import compose; print(compose.__file__)")
    assert Path(where.stdout.strip()).is_relative_to(unpacked)
    listed = run(unpacked, "-m", "compose", "recipe", "ls")
    assert listed.returncode == 0, listed.stderr
    assert "quickstart" in listed.stdout


def test_validates_the_quickstart_away_from_the_checkout(unpacked: Path) -> None:
    done = run(unpacked, "-m", "compose", "recipe", "validate", "quickstart")
    assert done.returncode == 0, done.stdout + done.stderr


def test_citation_and_changelog_name_this_version() -> None:
    assert f"version: {compose.__version__}" in (ROOT / "CITATION.cff").read_text("utf-8")
    assert f"## {compose.__version__}" in (ROOT / "CHANGELOG.md").read_text("utf-8")
