"""`compose report` as it is typed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.test_cli import call
from tests.recipes.results import finished
from tests.test_layers import ROOT


def test_runs_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = finished(tmp_path / "one"), finished(tmp_path / "two")
    monkeypatch.chdir(tmp_path)
    assert call("report", "one") == 0
    assert capsys.readouterr().out == "report in reports/made/report.html and reports/made/report.md\n"
    assert call("report", str(one), str(two), "--out", "both", "--per-layer") == 0
    assert (tmp_path / "both" / "report.html").is_file() and (tmp_path / "reports" / "made" / "scores.svg").is_file()
    assert call("report", "both") == 2
    assert "error: both: is no run" in capsys.readouterr().err


def test_a_place_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finished(tmp_path / "one")
    (tmp_path / "file").write_text("")
    assert call("report", str(tmp_path / "one"), "--out", str(tmp_path / "file")) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_a_report_needs_no_backbone(tmp_path: Path) -> None:
    finished(tmp_path / "one", (1, 2))
    code = (
        "import sys\nfrom compose.cli import main\n"
        "try:\n    main(['report', 'one'])\nexcept SystemExit as stop:\n    assert stop.code == 0\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "PATH": ""}, timeout=120
    )
    assert done.returncode == 0, done.stderr
