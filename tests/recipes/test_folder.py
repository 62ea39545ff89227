"""The folder of a run: complete or marked, never half."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from compose.errors import FileError
from compose.recipes.console import table
from compose.recipes.folder import MANIFEST, MARK, RunFolder, read_manifest, settle


def finished(target: Path, recipe: str = "one", overwrite: bool = False) -> Path:
    folder = RunFolder(target, recipe, overwrite)
    folder.write_text("recipe.yaml", recipe)
    return folder.finish({"recipe": recipe})


def test_a_run_is_moved_to_its_place_when_complete(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run", "one")
    folder.write_json("metrics.json", {"a": 1})
    assert not (tmp_path / "run").exists()
    assert (tmp_path / "run.partial" / MARK).exists()
    done = folder.finish({"recipe": "one", "seed": 3})
    assert done == tmp_path / "run" and not (tmp_path / "run.partial").exists()
    manifest = json.loads((done / MANIFEST).read_text())
    digest = hashlib.sha256((done / "metrics.json").read_bytes()).hexdigest()
    assert manifest["status"] == "complete" and manifest["seed"] == 3
    assert manifest["sha256"] == {"metrics.json": digest}
    assert sorted(path.name for path in done.iterdir()) == ["metrics.json", MANIFEST]


def test_an_interrupted_run_leaves_its_mark_and_the_next_begins_anew(tmp_path: Path) -> None:
    first = RunFolder(tmp_path / "run", "one")
    first.write_text("half", "half")
    assert read_manifest(first.path) is None
    done = finished(tmp_path / "run")
    assert not (done / "half").exists() and not (done / MARK).exists()


def test_the_old_run_stays_until_the_new_one_is_complete(tmp_path: Path) -> None:
    done = finished(tmp_path / "run")
    (done / "old").write_text("old")
    again = RunFolder(tmp_path / "run", "one")
    assert (done / "old").exists()
    again.finish({"recipe": "one"})
    assert not (done / "old").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_what_is_no_run_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "one").write_text("dear")
    for overwrite in (False, True):
        with pytest.raises(FileError, match="is no run"):
            RunFolder(tmp_path / "letters", "one", overwrite)
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileError, match="is no run"):
        RunFolder(tmp_path / "file", "one")
    (tmp_path / "run.partial").mkdir()
    (tmp_path / "run.partial" / "mine").write_text("x")
    with pytest.raises(FileError, match="no interrupted run"):
        RunFolder(tmp_path / "run", "one")
    assert (tmp_path / "run.partial" / "mine").exists()


def test_another_recipes_run_is_replaced_on_demand_only(tmp_path: Path) -> None:
    finished(tmp_path / "run", "one")
    with pytest.raises(FileError, match="another recipe, 'one'"):
        RunFolder(tmp_path / "run", "two")
    assert (finished(tmp_path / "run", "two", overwrite=True) / "recipe.yaml").read_text() == "two"


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileError, match="cannot be written"):
        RunFolder(tmp_path / "file" / "run", "one")


def test_tables_are_markdown() -> None:
    assert table(["a", "b"], [["x", "1"]]).splitlines() == ["| a   |   b |", "| --- | --: |", "| x   |   1 |"]


def test_what_was_killed_before_it_had_its_mark_is_no_hindrance(tmp_path: Path) -> None:
    (tmp_path / "run.partial").mkdir()
    assert finished(tmp_path / "run").is_dir()


def test_a_complete_run_that_was_not_moved_yet_is(tmp_path: Path) -> None:
    old = finished(tmp_path / "run")
    (old / "old").write_text("old")
    folder = RunFolder(tmp_path / "run", "one")
    folder.checkpoint(0).write_bytes(b"x")
    folder.write_json(MANIFEST, {"recipe": "one", "status": "complete"})
    (folder.path / ".half.tmp").write_text("half")
    (folder.path / MARK).unlink()  # and killed here
    settle(tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert [path.name for path in (tmp_path / "run").iterdir()] == [MANIFEST]


def test_what_is_resumed_keeps_its_files(tmp_path: Path) -> None:
    RunFolder(tmp_path / "run", "one").checkpoint(0).write_bytes(b"x")
    again = RunFolder(tmp_path / "run", "one", resume=True)
    assert again.checkpoint(0).read_bytes() == b"x"
    again.write_text("recipe.yaml", "one")
    done = again.finish({"recipe": "one"})
    assert sorted(path.name for path in done.iterdir()) == ["recipe.yaml", MANIFEST]
    assert list((read_manifest(done) or {})["sha256"]) == ["recipe.yaml"]
