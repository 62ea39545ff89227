"""`compose bench`: what it writes, what it says, and how it ends."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import uuid
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from compose.bench import plots
from compose.bench.case import Target
from compose.bench.cases import CASES
from compose.bench.document import command_line, read_json, write_json
from compose.bench.judge import expected_seconds, judge
from compose.bench.page import write_page
from compose.bench.tables import wording
from compose.bench.texts import bundled_texts, read_texts
from compose.bench.workers import Worker, command_of
from compose.cli import main
from compose.errors import BenchError, FileError
from tests.test_layers import ROOT


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(["bench", *arguments])
    assert isinstance(stop.value.code, int)
    return stop.value.code


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A case, measured by the command."""
    place = tmp_path_factory.mktemp("bench")
    words = ["fuse-inference", "--size", "tiny", "--rounds", "1", "--threads", "1"]
    words += ["--json", str(place / "out.json"), "--page", str(place / "page.md")]
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["compose", "bench", *words])
        code = call(*words)
    assert code == 0, err.getvalue()
    (place / "printed.txt").write_text(out.getvalue(), "utf-8")
    (place / "progress.txt").write_text(err.getvalue(), "utf-8")
    return place


def test_the_figures(folder: Path) -> None:
    found = read_json(folder / "out.json")
    assert found["threads"] == 1 and found["device"] == "cpu" and found["date"] and set(found["versions"]) == {"ours"}
    assert found["machine"]["cores"] >= 1 and found["machine"]["memory"] > 0 and found["machine"]["cpu"]
    assert found["command"] == (
        "compose bench fuse-inference --size tiny --rounds 1 --threads 1 --json out.json --page page.md"
    )
    (fuse,) = found["cases"]
    assert (fuse["name"], fuse["rows"], fuse["tokens"], fuse["size"]) == ("fuse-inference", 2, 16, "tiny")
    assert list(fuse["contestants"]) == ["ours", "plain"]  # the peer was not asked for
    for one in fuse["contestants"].values():
        assert len(one["seconds"]) == 1 and len(one["seconds"][0]) == fuse["calls"]
        assert 0 < one["minimum"] <= one["median"] and one["peak"] == max(one["peaks"]) >= 0 and one["flops"] > 0
        assert one["memory_by"] in ("VmHWM", "ru_maxrss") and one["loaded"] > 0
    ours, plain = fuse["contestants"]["ours"], fuse["contestants"]["plain"]
    assert ours["flops"] == pytest.approx(ours["facts"]["explained"], rel=0.01)
    against_plain, against_peer = fuse["targets"]
    assert against_plain["bound"] == ours["flops"] / plain["flops"] and 1.0 < against_plain["bound"] < 1.3
    assert against_plain["value"] == ours["median"] / plain["median"]
    assert against_plain["value_of_minima"] == ours["minimum"] / plain["minimum"]
    assert "value" not in against_peer


def test_what_it_prints(folder: Path) -> None:
    printed, progress = ((folder / name).read_text("utf-8") for name in ("printed.txt", "progress.txt"))
    assert "ours: time against plain" in printed and "at most 1.18 ×" in printed and "not measured" in printed
    lines = progress.splitlines()
    assert "fuse-inference: plain round 1 of 1" in lines and "\x1b" not in progress
    assert lines.index("fuse-inference: plain round 1 of 1") > lines.index("fuse-inference: ours round 1 of 1")


def test_the_page_is_written_from_the_figures(folder: Path, tmp_path: Path) -> None:
    assert call("--from", str(folder / "out.json"), "--page", str(tmp_path / "page.md")) == 0
    page = (tmp_path / "page.md").read_text("utf-8")
    assert page == (folder / "page.md").read_text("utf-8")
    figures = read_json(folder / "out.json")
    for wanted in (figures["date"], figures["command"], figures["machine"]["cpu"], "GPUs are untested"):
        assert wanted in page
    assert str(folder) not in page


def test_the_figures_can_be_printed_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--from", str(folder / "out.json")) == 0
    assert capsys.readouterr().out == (folder / "printed.txt").read_text("utf-8").split(str(folder))[0]


def fake(name: str, contestants: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A case with figures of our own."""
    made = {}
    for one, (seconds, flops, options) in contestants.items():
        by = "peer" if "peer" in one else "plain" if "plain" in one else "ours"
        made[one] = {"by": by, "options": options, "median": seconds, "minimum": seconds, "peak": 1 << 20}
        made[one] |= {
            "memory_by": "VmHWM",
            "flops": flops,
            "facts": {"epochs": [2 * seconds, seconds]} if by == "ours" else {},
        }
    return {
        "name": name, "shows": "what it shows", "rows": 8, "tokens": 128, "training": False, "rounds": 5, "calls": 3,
        "contestants": made, "targets": judge([Target("ours, 8", 2.0, "plain")], made),
    }  # fmt: skip


def test_plots_stand_beside_the_page(folder: Path, tmp_path: Path) -> None:
    scaling = {"plain": (1.0, 100, {}), "ours, 8": (1.2, 110, {"adapters": 8}), "ours, 2": (1.1, 105, {"adapters": 2})}
    shapes = {
        "plain": (1.0, 100, {}),
        "ours, 8": (8.0, 800, {"adapters": 8, "drop": 0}),
        "dropped": (4.0, 400, {"adapters": 8, "drop": 6}),
    }
    cases = [fake("fuse-scaling", scaling), fake("parallel-scaling", shapes), fake("drop-training", scaling)]
    document = {**read_json(folder / "out.json"), "cases": cases}
    written = write_page(tmp_path / "b.md", [document])
    assert [path.name for path in written] == ["b.md", *(f"b-{case['name']}.svg" for case in cases)]
    images = [path.read_bytes() for path in written[1:]]
    assert all(b"<svg" in image for image in images)
    assert [path.read_bytes() for path in write_page(tmp_path / "b.md", [document])[1:]] == images
    page = written[0].read_text("utf-8")
    assert "![what it shows](b-fuse-scaling.svg)" in page and "1.20 ×" in page and "1.10 ×" in page
    assert not plots.fusion(tmp_path / "none.svg", fake("fuse-scaling", {"plain": (1.0, 100, {})}))


def test_measurements_of_two_machines_stand_apart(folder: Path, tmp_path: Path) -> None:
    first = read_json(folder / "out.json")
    gpu = {
        **first,
        "device": "cuda",
        "machine": {**first["machine"], "gpu": "A large one"},
    }
    again = {
        **first,
        "cases": [{**first["cases"][0], "name": "another"}],
        "date": "later",
        "note": "on a busy machine",
    }
    (path,) = write_page(tmp_path / "b.md", [first, gpu, again])
    page = path.read_text("utf-8")
    assert page.count("\n## ") == 3 and "## A large one" in page and "GPUs are untested" not in page
    assert page.count("### another") == 1 and page.count("### fuse-inference") == 2 and "later" in page
    assert "*on a busy machine*" in page


def test_the_page_in_the_docs_is_what_its_figures_give(tmp_path: Path) -> None:
    documents = [read_json(path) for path in sorted((ROOT / "docs").glob("benchmarks*.json"))]
    written = write_page(tmp_path / "benchmarks.md", documents)
    assert written[0].read_text("utf-8") == (ROOT / "docs" / "benchmarks.md").read_text("utf-8")
    assert {path.name for path in written[1:]} == {path.name for path in (ROOT / "docs").glob("benchmarks-*.svg")}


def test_ratios_bounds_and_targets() -> None:
    found: dict[str, dict[str, Any]] = {
        "ours": {
            "by": "ours", "median": 3.3, "minimum": 3.0, "peak": 50, "flops": 300,
            "facts": {"flops_by_rows": {"8": 100, "64": 800}, "lost": 0.004},
        },
        "plain": {"by": "plain", "median": 1.0, "minimum": 1.0, "peak": 10, "flops": 200, "facts": {"rows": 8}},
        "more": {"by": "plain", "median": 4.0, "minimum": 4.0, "peak": 10, "flops": 1600, "facts": {"rows": 64}},
    }  # fmt: skip
    assert expected_seconds("ours", found) == 100 / 200 + 800 / 400
    time_, memory, bound, fact, missing = judge(
        [
            Target("ours", 3.0, "plain"),
            Target("ours", 5.0, "plain", "memory"),
            Target("ours", 1.5, metric="bound"),
            Target("ours", 0.005, metric="lost"),
            Target("ours", 1.0, "peer"),
        ],
        found,
    )
    assert (time_["value"], time_["value_of_minima"], time_["reached"], time_["bound"]) == (3.3, 3.0, False, 1.5)
    assert (memory["value"], memory["reached"]) == (5.0, True) and "bound" not in memory
    assert (bound["value"], bound["value_of_minima"], bound["reached"]) == (3.3 / 2.5, 3.0 / 2.5, True)
    assert fact["value"] == 0.004 and fact["reached"] and "value" not in missing and "reached" not in missing


def test_the_slope_of_a_scaling() -> None:
    found = {
        "16": {"by": "ours", "median": 1.4, "minimum": 1.3, "flops": 140},
        "8": {"by": "ours", "median": 1.2, "minimum": 1.2, "flops": 120},
        "plain": {"by": "plain", "median": 2.0, "minimum": 1.0, "flops": 100},
    }
    (told,) = judge([Target("16", 0.02, "plain", beyond="8", adapters=8)], found)
    assert told["value"] == pytest.approx(0.0125) and told["reached"]
    assert told["value_of_minima"] == pytest.approx(0.0125) and told["bound"] == pytest.approx(0.025)
    assert wording(told) == "16: time of each adapter more than 8 has, against plain"
    assert "value" not in judge([Target("16", 0.02, "plain", beyond="4", adapters=8)], found)[0]


def test_cases_of_other_devices_are_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("cuda-graphs", "--size", "tiny", "--json", str(tmp_path / "out.json")) == 0
    assert "cuda-graphs: skipped, for it runs on --device cuda only" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_list_needs_nothing_that_computes() -> None:
    code = (
        "import sys\nfor name in ('torch', 'transformers', 'numpy', 'matplotlib'):\n    sys.modules[name] = None\n"
        "from compose.cli import main\nmain(['bench', '--list'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 0, done.stderr
    assert all(case.name in done.stdout and case.shows in done.stdout for case in CASES)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("fuse-infrence",), "error: there is no case 'fuse-infrence'\n  legal: 'fuse-inference'"),
        (("parallel", "--peer", "no/such/python"), "--peer no/such/python: is no Python interpreter that runs"),
        (("parallel", "--peer", sys.executable), "that interpreter has no adapters"),
        (("parallel", "--json", "no/such/folder/out.json"), "no/such/folder/out.json: its folder does not exist"),
        (("parallel", "--page", "."), ".: is a folder"),
        (("--list", "--rounds", "3", "--json", "x.json"), "so it would ignore --json, --rounds"),
        (("--list", "--from", "x.json"), "so it would ignore --from"),
        (("--from", "x.json", "--note", "n", "--threads", "1"), "so it would ignore --threads, --note"),
        (("--from", "x.json", "--page", "x.json"), "--page would be written over the figures"),
        (("parallel", "--json", "x.json", "--page", "./x.json"), "--page would be written over the figures"),
        (("parallel", "--texts", "no-such.jsonl"), "no-such.jsonl: cannot be read"),
        (("--from", "no-such.json"), "no-such.json: cannot be read"),
        (("parallel", "--device", "cuda"), "there is no GPU that torch can use"),
        (("parallel", "--rounds", "0"), "--rounds"),
        (("parallel", "--size", "huge"), "--size"),
    ],
)
def test_mistakes(
    arguments: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert call(*arguments) == 2
    told = capsys.readouterr().err
    assert said in told and "Traceback" not in told
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["{", "[]", '{"format": "other"}'])
def test_files_that_hold_no_figures(content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.json").write_text(content)
    assert call("--from", str(tmp_path / "x.json")) == 2
    assert "x.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("path", "said"),
    [
        (("date",), "x.json: date is missing"),
        (("machine",), "x.json: machine is missing"),
        (("cases", 0, "shows"), "x.json: cases.0.shows is missing"),
        (("cases", 0, "contestants", "ours", "peak"), "x.json: cases.0.contestants.ours.peak is missing"),
        (("cases", 0, "targets", 0, "reached"), "x.json: cases.0.targets.0.reached is missing"),
    ],
)
def test_figures_that_lack_fields(
    path: tuple[Any, ...], said: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = read_json(folder / "out.json")
    inner: Any = figures
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    (tmp_path / "x.json").write_text(json.dumps({**figures, "threads": "two"}))
    assert call("--from", str(tmp_path / "x.json")) == 2
    told = capsys.readouterr().err
    assert said in told and "threads is no whole number" in told and "Traceback" not in told


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="/proc takes no files, whoever asks")
def test_what_cannot_be_written_is_found_before_measuring(capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--json", "--page"):
        assert call("parallel", option, "/proc/figures") == 2
        assert "/proc/figures: cannot be written" in capsys.readouterr().err


def test_a_page_without_matplotlib_is_found_before_measuring(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert call("fuse-scaling", "--page", str(tmp_path / "page.md")) == 2
    assert "matplotlib is not installed" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_figures_are_not_measured_and_read_at_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("parallel", "--from", str(folder / "out.json")) == 2
    assert "--from takes figures as they are" in capsys.readouterr().err


def processes_with(mark: str) -> list[int]:
    """Processes that have a word in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:  # it has ended, or is another's
            continue
    return found


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks processes up in /proc")
def test_an_interrupt_ends_the_workers_and_leaves_no_file(tmp_path: Path) -> None:
    mark = uuid.uuid4().hex
    command = [sys.executable, "-m", "compose", "bench", "fuse-inference", "--size", "tiny", "--threads", "1"]
    command += ["--rounds", "100000", "--json", str(tmp_path / "out.json")]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "MARK": mark},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # What a shell starts in the background ignores the signal, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stderr is not None
        try:
            for line in process.stderr:
                if "round 2 " in line:
                    break
            assert len(processes_with(mark)) == 3  # the command and its two workers
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130 and "Traceback" not in said
    assert not processes_with(mark) and not list(tmp_path.iterdir())


def test_a_worker_that_fails_says_why() -> None:
    with Worker(command_of(None), threads=1) as worker:
        with pytest.raises(BenchError, match="KeyError"):
            worker.tell(do="set up", threads=1, setup="nothing", attention="eager", device="cpu")
        with pytest.raises(BenchError, match="it ended"):
            os.kill(worker.pid, signal.SIGKILL)
            worker.tell(do="round", calls=1)


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1} and [one.name for one in tmp_path.iterdir()] == ["out.json"]


def test_commands_name_no_places() -> None:
    words = ["bench", "parallel", "--peer", "venv/bin/python", "--texts", os.sep + "data/test.jsonl", "--rounds", "3"]
    assert command_line(words) == "compose bench parallel --peer PEER --texts test.jsonl --rounds 3"


def test_texts(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    (tmp_path / "a.csv").write_text('id,text\n1,"one, and\nmore"\n2,two\n')
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n{"text": "two", "label": 1}\n')
    assert read_texts(tmp_path / "a.txt") == ["one", "two"]
    assert read_texts(tmp_path / "a.csv") == ["one, and\nmore", "two"]
    assert read_texts(tmp_path / "a.jsonl") == ["one", "two"]
    (tmp_path / "b.csv").write_text("id,txt\n1,one\n")
    (tmp_path / "b.jsonl").write_text('{"text": "one"}\n{"txt": "two"}\n')
    (tmp_path / "b.txt").write_text("\n")
    for name, where in (("b.csv", "b.csv:1"), ("b.jsonl", "b.jsonl:2"), ("b.txt", "b.txt")):
        with pytest.raises(FileError) as caught:
            read_texts(tmp_path / name)
        assert caught.value.problems[0].where.endswith(where)
    assert len(bundled_texts(900)) == 900 and bundled_texts(900)[700] == bundled_texts(1)[0]
    strange = "one\u2028two\x85three\x0cfour"  # JSON and CSV take these as they are
    (tmp_path / "c.jsonl").write_text(f'\ufeff{{"text": "{strange[:7]}"}}\r\n \r\n{{"text": "two\x85"}}\n', "utf-8")
    (tmp_path / "c.csv").write_text(f"\ufefftext,id\n{strange},1\ntwo,2\n", "utf-8")
    (tmp_path / "c.txt").write_text(f"{strange}\r\ntwo", "utf-8")
    assert read_texts(tmp_path / "c.jsonl") == [strange[:7], "two\x85"]
    assert read_texts(tmp_path / "c.csv") == read_texts(tmp_path / "c.txt") == [strange, "two"]
    (tmp_path / "d.csv").write_text('text\n"' + "long " * 30000, "utf-8")
    with pytest.raises(FileError, match="not CSV: field larger than field limit"):
        read_texts(tmp_path / "d.csv")
