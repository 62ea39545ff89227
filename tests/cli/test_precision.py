"""`compose predict --precision` and `--compare-precision`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import compose
from tests.cli.test_cli import call
from tests.heads.texts import bert, tokenizer

pytestmark = pytest.mark.filterwarnings("ignore::compose.runtime.precision.SlowPrecisionWarning")


@pytest.fixture
def run(tmp_path: Path) -> str:
    """The folder of a saved plan."""
    bert().save_pretrained(tmp_path / "backbone")
    tokenizer().save_pretrained(tmp_path / "backbone")
    model = compose.load(tmp_path / "backbone")
    model.add_adapter("tone", "seq_bn", reduction_factor=2)
    model.add_head("tone", "classification", labels=["good", "bad"])
    model.plan("Parallel('tone')").save(tmp_path / "run" / "plan")
    return str(tmp_path / "run")


def test_precision(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    answers = []
    for name in ("float32", "bf16"):
        assert call("predict", run, "a love", "--json", "--precision", name) == 0
        answers.append(json.loads(capsys.readouterr().out)["answers"]["tone"]["probability"])
    assert answers[0] != answers[1] and answers[0] == pytest.approx(answers[1], abs=0.05)
    assert call("predict", run, "a love", "--precision", "fp16") == 2
    said = capsys.readouterr().err
    assert "there is no precision 'fp16'" in said and "'float32'" in said and "'bf16'" in said


def test_compare_precision(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("predict", run, "a love", "new york", "--compare-precision") == 0
    out = capsys.readouterr().out
    assert "bf16 against float32" in out and "tone" in out and "s against" in out
    assert call("predict", run, "a love", "new york", "--compare-precision", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [(task["task"], task["inputs"]) for task in found["tasks"]] == [("tone", 2)]
    assert found["tasks"][0]["difference"] < 0.05
    assert call("predict", run, "a love", "--compare-precision", "--precision", "bf16") == 2
    assert "leave --precision out" in capsys.readouterr().err
