"""Sweeps: which members there are, that each is checked, and that none that fails takes anything from the others."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compose.errors import FileError
from compose.recipes.console import Console
from compose.recipes.job import Job
from compose.recipes.loader import load_text
from compose.recipes.manifest import read_manifest
from compose.recipes.members import MOST, count, members
from compose.recipes.overrides import apply_overrides
from compose.recipes.report.runs import read_runs
from compose.recipes.report.write import report
from compose.recipes.runner import run
from compose.recipes.sweeping import run_sweep
from compose.recipes.validate import read_recipe, validate
from tests.recipes.made import write_experiment
from tests.recipes.results import finished, pretend
from tests.recipes.small import SMALL, error_of, read


def swept(sweep: str) -> str:
    return SMALL.replace("train:\n", f"sweep:\n  {sweep}\ntrain:\n", 1)


def test_members_are_all_choices_of_a_value_a_key() -> None:
    document = load_text(
        swept("train.0.learning_rate: [1e-4, 3e-4]\n  adapters.topic.method: [seq_bn, lora]"), "r.yaml"
    )
    found = members(document, validate_sweep(document.data["sweep"]))
    assert [member.name for member in found] == [
        "1-learning_rate=0.0001,method=seq_bn",
        "2-learning_rate=0.0001,method=lora",
        "3-learning_rate=0.0003,method=seq_bn",
        "4-learning_rate=0.0003,method=lora",
    ]
    assert found[2].values == {"train.0.learning_rate": 3e-4, "adapters.topic.method": "seq_bn"}
    assert found[2].document.data["train"][0]["learning_rate"] == 3e-4
    assert found[2].document.data["adapters"]["topic"]["method"] == "seq_bn"
    assert "sweep" not in found[2].document.data and document.data["train"][0]["learning_rate"] == 5e-4
    again = apply_overrides(document, found[2].overrides())
    assert {**found[2].document.data, "sweep": {}} == again.data


def validate_sweep(sweep: dict[str, list[Any]]) -> dict[str, tuple[Any, ...]]:
    return {key: tuple(values) for key, values in sweep.items()}


def test_a_recipe_with_a_sweep_is_read() -> None:
    recipe = read(swept("seed: [1, 2]\n  heads.topic.pooling: [mean, null]"))
    assert recipe.sweep == {"seed": (1, 2), "heads.topic.pooling": ("mean", None)}
    assert not read(SMALL).sweep
    assert read(SMALL, "sweep={seed: [1, 2]}").sweep == {"seed": (1, 2)}


@pytest.mark.parametrize(
    ("sweep", "where", "what"),
    [
        ("train.0.epocs: [1, 2]", "r.yaml:16:19", "unknown key 'epocs' in train.0"),
        ("train.0.epochs: [1, x]", "r.yaml:16:23", "must be a whole number, not 'x'"),
        ("train.7.epochs: [1, 2]", "r.yaml:16:20", "train is a list: '7' is none of 0 to 0"),
        ("train.0.epochs: []", "r.yaml:16:19", "must not be empty"),
        ("train.0.epochs: 3", "r.yaml:16:19", "must be a list, not 3"),
        ("adapters.topic.method: [seq_bn, seq_nb]", "r.yaml:16:35", "legal: 'seq_bn'"),
        ("adapters.topic.r: [4]", "r.yaml:16:22", "no option"),
        ("name: [a, b]", "r.yaml:16:3", "'name' is the same for all members"),
        ("sweep.seed: [1]", "r.yaml:16:3", "'sweep.seed' is the same for all members"),
        ("length: {short: {train.0.epocs: 1}}", "r.yaml:16:35", "unknown key 'epocs' in train.0"),
        ("length: {short: {name: a}}", "r.yaml:16:26", "'name' is the same for all members"),
        ("length: {short: 1}", "r.yaml:16:19", "sweep.length.short must be a mapping, not 1"),
        ("length: {}", "r.yaml:16:11", "sweep.length must not be empty"),
        (f"seed: {list(range(MOST + 1))}", "r.yaml:15:1", f"{MOST + 1} members, but a sweep has at most {MOST}"),
        ("seed: [1, 2, 1]", "r.yaml:16:16", "sweep.seed has 1 twice"),
        ("seed: [1, 2]\n  length: {short: {seed: 3}}", "r.yaml:17:26", "replaces what sweep.seed sets"),
        ("train.0.epochs: [1, 2]\n  train.0: [{expression: topic}]", "r.yaml:17:13", "what sweep.train.0.epochs sets"),
        ("predict.expression: [topic, entitis]", "r.yaml:16:31", "there is no adapter 'entitis'"),
    ],
)
def test_every_member_is_checked(sweep: str, where: str, what: str) -> None:
    found = error_of(swept(sweep))
    assert what in found and where in found and "--set" not in found, found


def test_what_only_some_members_get_wrong_names_them() -> None:
    found = error_of(swept("heads.topic.kind: [classification, tagging]"))
    assert "the tagging head 'topic' learns from entities or tags" in found
    assert "why: with heads.topic.kind=tagging" in found


RATES = {"train.0.learning_rate": (1, 2, 3, 4)}


def sweep_job(folder: Path, rates: Sequence[int], seeds: str = "seed=1") -> Job:
    path = folder / "r.yaml"
    path.write_text(swept(f"train.0.learning_rate: {list(map(float, rates))}"), "utf-8")
    document, recipe = read_recipe(path, [seeds])
    return Job(document, recipe, (seeds,), folder / "out")


def check_results(out: Path, rates: Sequence[int], errors: dict[int, str]) -> None:
    manifest = read_manifest(out)
    assert manifest is not None and manifest["status"] == "complete"
    names = [f"{number}-learning_rate={float(rate)}" for number, rate in enumerate(rates, 1)]
    assert manifest["members"] == names
    assert manifest["failed"] == [name for name, rate in zip(names, rates, strict=True) if rate in errors]
    told = json.loads((out / "metrics.json").read_text())["members"]
    for name, rate, member in zip(names, rates, told, strict=True):
        assert (member["name"], member["values"]) == (name, {"train.0.learning_rate": float(rate)})
        if rate in errors:
            assert member["status"] == "failed" and errors[rate] in member["error"]
            assert read_manifest(out / name) is None
        else:
            assert member["means"]["composed"]["mean"] == pytest.approx(0.5 + rate / 10)
            assert read_runs([out / name])[0].first["means"]["composed"] == pytest.approx(0.5 + rate / 10)
    text = (out / "report.md").read_text("utf-8")
    assert "| 2      |" in text and "02 (" not in text
    assert "- composed: 2 (`train.0.learning_rate=2.0`), 70.0" in text
    assert (out / "sweep.svg").exists() and "## Failed" in text
    again = report([out], out.parent / "again")
    assert again.with_name("report.md").read_text("utf-8") == text


def test_one_after_another(tmp_path: Path) -> None:
    stream = io.StringIO()
    run_sweep(sweep_job(tmp_path, (1, 2, 3, 4)), Console(stream), pretend)
    check_results(tmp_path / "out", (1, 2, 3, 4), {3: "the loss is nan", 4: "MemoryError: no room"})
    said = stream.getvalue()
    assert "member 3 of 4, 3-learning_rate=3.0: failed: the loss is nan" in said
    assert "| 2-learning_rate=2.0 |     70.0 |   60.0 |" in said and "failed |" in said
    traces = list((tmp_path / "out").glob("*.error.txt"))
    assert [path.name for path in traces] == ["4-learning_rate=4.0.error.txt"]  # what no one foresaw
    assert "MemoryError: no room" in traces[0].read_text()
    with pytest.raises(FileError, match="holds a sweep") as caught:
        report([tmp_path / "out", tmp_path / "out"])
    assert "1-learning_rate=1.0" in str(caught.value)


def test_side_by_side_a_process_that_dies_takes_nothing_with_it(tmp_path: Path) -> None:
    stream = io.StringIO()
    run_sweep(sweep_job(tmp_path, (1, 2, 5)), Console(stream), pretend, jobs=2)
    check_results(tmp_path / "out", (1, 2, 5), {5: "the process ended with exit code 9"})
    assert (tmp_path / "out" / "2-learning_rate=2.0.log").read_text() == "a rate of 2\n"


def test_members_of_several_seeds(tmp_path: Path) -> None:
    run_sweep(sweep_job(tmp_path, (1, 2), "seeds=[1, 2]"), Console(quiet=True), pretend)
    text = (tmp_path / "out" / "report.md").read_text("utf-8")
    # 0.7 and 0.75: deviation 0.0354; Student's t of one degree of freedom is 12.706.
    assert "72.5 ± 31.8 (3.5)" in text


def test_members_that_are_complete_are_not_run_again(tmp_path: Path) -> None:
    ran: list[float] = []

    def second_time(job: Job, console: Console) -> Path:
        ran.append(job.recipe.train[0].rate)
        if job.recipe.train[0].rate == 1:  # as if an earlier try had come as far as the second
            pretend(Job(job.document, job.recipe, (), job.target.with_name("2-learning_rate=2.0")), console)
        return pretend(job, console)

    interrupted: Callable[[Job, Console], Path] = second_time
    run_sweep(sweep_job(tmp_path, (1, 2)), Console(quiet=True), interrupted)
    assert ran == [1.0, 2.0]


def test_a_sweep_of_real_runs(tmp_path: Path) -> None:
    write_experiment(tmp_path)
    sweep = f"sweep={{backbone.name: ['{tmp_path / 'backbone'}', 'no/such/backbone']}}"
    light = ["train.0.epochs=1", "evaluate.drop_curve=null", "evaluate.fusion_attention=false"]
    done = run(tmp_path / "made.yaml", [sweep, *light], out=tmp_path / "out", console=Console(quiet=True))
    manifest = read_manifest(done)
    assert manifest is not None and len(manifest["members"]) == 2 and len(manifest["failed"]) == 1
    member = done / manifest["members"][0]
    assert (member / "adapters" / "letter" / "adapter.safetensors").exists()
    _, resolved = read_recipe(member / "resolved.yaml")
    assert not resolved.sweep and resolved.train[0].epochs == 1
    own = read_manifest(member)
    assert own is not None
    document, given = read_recipe(tmp_path / "made.yaml", own["overrides"])
    assert not given.sweep and validate(document) == given and given.backbone.name == resolved.backbone.name


CHOICES = """\
  training:
    short: {train.0.epochs: 1, train.0.learning_rate: 1e-3}
    as it is: {}
  seed: [1, 2]"""


def test_choices_set_several_keys_together() -> None:
    recipe = read(SMALL.replace("train:\n", f"sweep:\n{CHOICES}\ntrain:\n", 1))
    document = load_text(SMALL.replace("train:\n", f"sweep:\n{CHOICES}\ntrain:\n", 1), "r.yaml")
    assert count(recipe.sweep) == 4
    found = members(document, recipe.sweep)
    assert [member.name for member in found] == [
        "1-training=short,seed=1",
        "2-training=short,seed=2",
        "3-training=as_it_is,seed=1",
        "4-training=as_it_is,seed=2",
    ]
    assert found[1].values == {"training": "short", "seed": 2}
    assert found[1].overrides() == ("sweep={}", "train.0.epochs=1", "train.0.learning_rate=0.001", "seed=2")
    assert found[1].document.data["train"][0]["epochs"] == 1 and found[1].document.data["seed"] == 2
    plain = dict(document.data)
    plain.pop("sweep")
    assert found[3].document.data == {**plain, "seed": 2}


def test_members_that_failed_are_run_again(tmp_path: Path) -> None:
    job = sweep_job(tmp_path, (1, 3))
    run_sweep(job, Console(quiet=True), pretend)
    path = tmp_path / "out" / "1-learning_rate=1.0" / "metrics.json"
    before = path.stat().st_mtime_ns
    ran: list[float] = []

    def mended(job: Job, console: Console) -> Path:
        ran.append(job.recipe.train[0].rate)
        return finished(job.target, (1,))

    stream = io.StringIO()
    done = run_sweep(replace(job, resume=True), Console(stream), mended)
    manifest = read_manifest(done)
    assert ran == [3.0] and manifest is not None and manifest["failed"] == []
    assert "1 of 2 members failed, and run again" in stream.getvalue() and path.stat().st_mtime_ns == before
    again = io.StringIO()
    run_sweep(replace(job, resume=True), Console(again), mended)
    assert ran == [3.0] and "nothing left to do" in again.getvalue()
    other = replace(job, recipe=job.recipe.model_copy(update={"seed": 9}), resume=True)
    with pytest.raises(FileError, match="seed was 1, and is 9"):
        run_sweep(other, Console(quiet=True), mended)
    assert read_manifest(done) == manifest
