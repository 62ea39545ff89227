"""The command line: what it says, where it says it, and with which exit code it ends."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import compose
from compose.cli import main
from compose.recipes import shipped
from compose.runtime.attach import attach
from tests.heads.texts import bert, tokenizer
from tests.recipes.small import SMALL
from tests.test_layers import ROOT


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert isinstance(stop.value.code, int)
    return stop.value.code


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny backbone, and a plan over it."""
    folder = tmp_path_factory.mktemp("cli")
    bert().save_pretrained(folder / "backbone")
    tokenizer().save_pretrained(folder / "backbone")
    model = compose.load(folder / "backbone")
    model.add_adapter("tone", "seq_bn", reduction_factor=2)
    model.add_head("tone", "classification", labels=["good", "bad"])
    model.add_head("towns", "tagging", labels=["O", "B-town"])
    model.plan("Parallel('tone', towns='tone')").save(folder / "run" / "plan")
    (folder / "run" / "run.json").write_text('{"recipe": "x"}')
    return folder


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--version") == 0
    assert capsys.readouterr().out == f"compose {compose.__version__}\n"


@pytest.mark.parametrize(
    "verb",
    [(), ("run",), ("predict",), ("explain",), ("convert",), ("recipe",), ("recipe", "cp"), ("adapter", "merge")],
)
def test_every_verb_has_help(verb: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert call(*verb, "--help") == 0
    assert "Usage: compose" in capsys.readouterr().out


def test_help_and_validation_need_nothing_that_computes() -> None:
    code = (
        "import sys\nfor name in ('torch', 'transformers', 'numpy'):\n    sys.modules[name] = None\n"
        "from compose.cli import main\nmain({!r})"
    )
    for arguments in (["--help"], ["run", "--help"], ["recipe", "ls"], ["recipe", "validate", "quickstart"]):
        command = [sys.executable, "-c", code.format(arguments)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
        assert done.returncode == 0, done.stderr


def test_the_module_is_the_command() -> None:
    command = [sys.executable, "-m", "compose", "run", "none.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith("error: there is no recipe 'none.yaml'") and not done.stdout


@pytest.mark.parametrize(
    "arguments", [("run",), ("run", "a", "b"), ("nonsense",), ("--nonsense",), ("explain", "a", "--format", "pdf")]
)
def test_wrong_usage(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert call(*arguments) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "where"),
    [
        (SMALL.replace("epochs: 2", "epocs: 2"), "r.yaml:16:25: unknown key 'epocs'"),
        (SMALL.replace("  topic: {method", "\ttopic: {method"), "r.yaml:8:1: a tab"),
        (SMALL + "name: again\n", "r.yaml:23:1: the key 'name' stands here twice"),
        (SMALL.replace("epochs: 2", "epochs: *two"), "r.yaml:16:33: aliases"),
        (SMALL.replace("5e-4", "'5e-4'"), "r.yaml:16:51: train.0.learning_rate must be a number"),
        (b"\xff\xfe\x00", "r.yaml:1:1: begins with a UTF-16 byte order mark"),
        ("", "r.yaml:1:1: the file is empty"),
    ],
)
@pytest.mark.parametrize("verb", [("run",), ("recipe", "validate")])
def test_a_malformed_recipe(
    verb: tuple[str, ...], content: str | bytes, where: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "r.yaml").write_bytes(content.encode() if isinstance(content, str) else content)
    assert call(*verb, str(tmp_path / "r.yaml")) == 2
    said = capsys.readouterr().err
    assert where in said and "Traceback" not in said
    assert [path.name for path in tmp_path.iterdir()] == ["r.yaml"]


def test_overrides_are_validated_as_they_are_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("recipe", "validate", "quickstart", "--set", "train.0.epochs=1") == 0
    for verb in (("run",), ("recipe", "validate")):
        assert call(*verb, "quickstart", "--set", "train.0.epocs=1") == 2
        assert "--set train.0.epocs=1: unknown key 'epocs'" in capsys.readouterr().err


def test_recipes_are_listed_shown_and_copied(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("recipe", "ls") == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed if line] == [recipe.name for recipe in shipped.shipped()]
    assert call("recipe", "show", "quickstart") == 0
    assert capsys.readouterr().out == shipped.find("quickstart").read_text("utf-8")
    assert call("recipe", "cp", "quickstart", str(tmp_path)) == 0
    assert (tmp_path / "quickstart.yaml").exists()
    assert call("recipe", "cp", "quickstart", str(tmp_path)) == 2
    assert "there already" in capsys.readouterr().err


def test_ctrl_c(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(name: str) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr("compose.recipes.shipped.find", interrupt)
    assert call("recipe", "show", "quickstart") == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_disk_that_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def full(name: str) -> Path:
        raise OSError(28, "No space left on device", "runs/x")

    monkeypatch.setattr("compose.recipes.shipped.find", full)
    assert call("recipe", "show", "quickstart") == 1
    assert capsys.readouterr().err == "error: runs/x: No space left on device\n"


def test_a_reader_that_goes_away() -> None:
    command = f"'{sys.executable}' -m compose recipe show quickstart | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.stdout == "# compose run quickstart\n" and not done.stderr


def test_a_run_answers_texts(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("predict", str(place / "run"), "a love", "new york") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "a love" and lines[1].startswith("  tone: ") and "  towns: " in lines[2]


def test_answers_as_json(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("predict", str(place / "run"), "a love", "b", "--json") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["text"] for row in rows] == ["a love", "b"]
    assert set(rows[0]["answers"]) == {"tone", "towns"}
    assert set(rows[0]["answers"]["tone"]["probabilities"]) == {"good", "bad"}
    assert call("predict", str(place / "run" / "plan"), "b", "--json", "--task", "tone") == 0
    assert list(json.loads(capsys.readouterr().out)["answers"]) == ["tone"]


def test_batches_change_no_answer(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("predict", str(place / "run"), "a love new york", "b", "c d", "--json")
    found = []
    for limits in ((), ("--batch-size", "1"), ("--batch-tokens", "8"), ("--batch-size", "2", "--batch-tokens", "20")):
        assert call(*asked, *limits) == 0
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [row["text"] for row in rows] == list(asked[2:5])
        found.append([list(row["answers"]["tone"]["probabilities"].values()) for row in rows])
    for each in found[1:]:
        assert each == [pytest.approx(values, abs=1e-5) for values in found[0]]
    assert call(*asked, "--batch-size", "0", "--batch-tokens", "-1") == 2
    said = capsys.readouterr().err
    assert "batch_size=0" in said and "batch_tokens=-1" in said


def test_texts_from_files(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "texts.txt").write_text("a love\n\nb\n")
    (tmp_path / "texts.jsonl").write_text('{"text": "a", "pair": "b"}\n{"text": "c"}\n')
    assert call("predict", str(place / "run"), "--json", "--file", str(tmp_path / "texts.txt")) == 0
    assert [json.loads(line)["text"] for line in capsys.readouterr().out.splitlines()] == ["a love", "b"]
    assert call("predict", str(place / "run"), "--json", "--file", str(tmp_path / "texts.jsonl")) == 0
    assert [json.loads(line)["text"] for line in capsys.readouterr().out.splitlines()] == ["a | b", "c"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("x\ny\n"))
    assert call("predict", str(place / "run"), "--json", "--file", "-") == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_wrong_calls_of_predict(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(place / "run")
    (tmp_path / "broken.jsonl").write_text('{"text": "a"}\n{"texts": 1}\n')
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "INCOMPLETE").touch()
    for arguments, what in [
        ((run,), "no texts"),
        ((str(tmp_path / "none"), "a"), "no such folder"),
        ((str(tmp_path), "a"), "neither a run nor a saved plan"),
        ((str(tmp_path / "half"), "a"), "not complete"),
        ((run, "--file", str(tmp_path / "none.txt")), "No such file"),
        ((run, "--file", str(tmp_path / "latin.txt")), "not UTF-8"),
        ((run, "--file", str(tmp_path / "broken.jsonl")), "broken.jsonl:2: a line is a JSON object with a 'text'"),
        ((run, "a", "--task", "ton"), "ton"),
        ((run, "a " * 40), "tokens, but the backbone takes"),
        ((run, "a " * 40), "try: --truncate, or --stride N for windows that overlap by N tokens"),
        ((run, "a " * 40, "--stride", "4", "--truncate"), "truncate and stride exclude each other"),
    ]:
        assert call("predict", *arguments) == 2, what
        said = capsys.readouterr()
        assert what in said.err and not said.out
    assert call("predict", run, "a " * 40, "--truncate") == 0
    assert call("predict", run, "a " * 40, "--stride", "4") == 0


EXPRESSION = 'Parallel("a", both=Fuse("a", "b"))'


@pytest.mark.parametrize(
    ("form", "begins"), [("text", "Parallel"), ("mermaid", "flowchart"), ("dot", "digraph"), ("json", "{")]
)
def test_explain(form: str, begins: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("explain", EXPRESSION, "--backbone", str(place / "backbone"), "--format", form) == 0
    said = capsys.readouterr()
    assert said.out.lstrip().startswith(begins) and not said.err
    if form == "json":
        assert json.loads(said.out)["cost"]["flops"] > 0


def test_explain_takes_methods(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def flops(*options: str) -> int:
        backbone = str(place / "backbone")
        assert call("explain", '"a"', "--backbone", backbone, "--format", "json", *options) == 0
        return int(json.loads(capsys.readouterr().out)["cost"]["flops"])

    assert flops("--adapter", "a=lora,r=3") != flops("--adapter", "a=seq_bn,reduction_factor=2") != flops()
    assert flops("--rows", "4") * 2 == flops()  # 8 rows where nothing is said
    model = attach(bert())
    model.add_adapter("a", "double_seq_bn", bottleneck_size=3)
    model.add_head("a", "classification", labels=5)
    options = ("--adapter", "a=double_seq_bn,bottleneck_size=3", "--labels", "5", "--tokens", "16")
    assert flops(*options) == model.plan("a").explain(rows=8, tokens=16).flops


def test_explain_takes_kinds_of_fusion(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def flops(*options: str) -> int:
        arguments = ["explain", 'Fuse("a", "b")', "--backbone", str(place / "backbone"), "--format", "json"]
        assert call(*arguments, *options) == 0
        return int(json.loads(capsys.readouterr().out)["cost"]["flops"])

    assert flops("--fusion", "a,b=scalearn,shared=true") < flops() == flops("--fusion", "a,b=dynamic")


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("Stack('a'",), "not an expression"),
        (("Parallel(Parallel('a'), Fuse(Parallel('a'), 'b'))",), "Parallel"),
        (("'a'", "--adapter", "b=lora"), "the expression has no adapter 'b'"),
        (("'a'", "--adapter", "a"), "not an adapter"),
        (("'a'", "--adapter", "a=lora,r"), "not an adapter"),
        (("'a'", "--adapter", "a=lorra"), "'lora'"),
        (("'a'", "--adapter", "a=lora,rank=3"), "no option 'rank'"),
        (("Fuse('a', 'b')", "--fusion", "c=static"), "the expression has no fusion 'c'"),
        (("Fuse('a', 'b')", "--fusion", "a,b"), "not a fusion"),
        (("Fuse('a', 'b')", "--fusion", "a,b=scalern"), "'scalearn'"),
        (("Drop('a', first=7)",), "layers"),
        (("'a'", "--backbone", "no/such/folder"), "cannot be loaded"),
    ],
)
def test_wrong_calls_of_explain(
    arguments: tuple[str, ...], what: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backbone = () if "--backbone" in arguments else ("--backbone", str(place / "backbone"))
    assert call("explain", *arguments, *backbone) == 2
    said = capsys.readouterr().err
    assert what in said and "Traceback" not in said


def test_a_run_from_the_command_line(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = "\n".join(json.dumps({"text": f"{c} {d}", "label": c}) for c in "ab" for d in "cdef")
    (tmp_path / "rows.jsonl").write_text(rows)
    recipe = tmp_path / "own.yaml"
    recipe.write_text(
        f"recipe: 1\nname: own\nbackbone: {place / 'backbone'}\n"
        "data: {x: {kind: jsonl, train: rows.jsonl, test: rows.jsonl, label: label}}\n"
        "adapters: {x: {method: seq_bn}}\nheads: {x: {kind: classification}}\n"
        "train: [{expression: x}]\nevaluate: {expressions: {x: x}}\n"
    )
    before = os.getcwd()
    os.chdir(tmp_path)
    try:
        assert call("run", "own.yaml", "--set", "train.0.epochs=1") == 0
        assert "results in runs/own" in capsys.readouterr().out
        assert call("predict", "runs/own", "a d") == 0
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "letter.txt").write_text("dear")
        assert call("run", "own.yaml", "--out", "other", "--overwrite") == 2
        assert "is no run" in capsys.readouterr().err
    finally:
        os.chdir(before)
    assert "overrides" in (tmp_path / "runs" / "own" / "run.json").read_text()
