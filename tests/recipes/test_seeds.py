"""Several seeds: a run each, and what they say together."""

from __future__ import annotations

import io
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from compose.recipes.aggregate import aggregate, difference, estimate
from compose.recipes.console import Console
from compose.recipes.job import Job
from compose.recipes.loader import load_text
from compose.recipes.manifest import read_manifest
from compose.recipes.runner import run
from compose.recipes.seeds import run_seeds
from compose.recipes.validate import read_recipe, validate
from tests.recipes.made import write_experiment
from tests.recipes.small import SMALL, error_of, read

SEEDS = ["seeds=[1, 2, 3]", "report.plots=false", "evaluate.baselines=[tfidf]"]


def test_an_estimate_by_hand() -> None:
    # 0.7, 0.8, 0.9: deviation 0.1; Student's t of two degrees of freedom is 4.302653 at 97.5 %.
    found = estimate([0.7, 0.8, 0.9])
    assert found.mean == pytest.approx(0.8) and found.deviation == pytest.approx(0.1)
    assert found.half == pytest.approx(4.302653 * 0.1 / math.sqrt(3), abs=1e-6)
    assert (found.low, found.high) == pytest.approx((0.8 - 0.248414, 0.8 + 0.248414), abs=1e-5)
    one = estimate([0.5])
    assert (one.mean, one.deviation, one.low, one.high, one.half) == (0.5, None, None, None, None)


def test_differences_are_paired_by_seed() -> None:
    # Each seed gains 0.1, however much the seeds themselves vary: the interval has no width.
    found = difference({1: 0.5, 2: 0.9, 3: 0.1}, {3: 0.0, 1: 0.4, 2: 0.8})
    assert found is not None and found.mean == pytest.approx(0.1)
    assert found.half == pytest.approx(0.0, abs=1e-9)
    assert difference({1: 0.5}, {2: 0.5}) is None


def test_seed_and_seeds_exclude_each_other() -> None:
    assert read(SMALL, "seeds=[1, 2]").seeds == (1, 2) and read(SMALL, "seed=5").seed == 5
    assert "seed and seeds exclude each other" in error_of(
        SMALL.replace("backbone:", "seed: 7\nbackbone:"), "seeds=[1]"
    )
    assert "each seed may occur once" in error_of(SMALL, "seeds=[1, 2, 1]")
    assert "seeds must be a list" in error_of(SMALL, "seeds=3")
    assert "seeds.1" in error_of(SMALL, "seeds=[1, -1]")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("seeds")
    write_experiment(folder)
    recipe = (folder / "made.yaml").read_text("utf-8").replace("seed: 3\n", "")
    (folder / "made.yaml").write_text(recipe, "utf-8")
    return folder


@pytest.fixture(scope="module")
def said(place: Path) -> str:
    stream = io.StringIO()
    run(place / "made.yaml", SEEDS, out=place / "run", console=Console(stream))
    return stream.getvalue()


def metrics_of(folder: Path) -> Any:
    return json.loads((folder / "metrics.json").read_text("utf-8"))


def test_each_seed_has_a_run_of_its_own(place: Path, said: str) -> None:
    names = {path.name for path in (place / "run").iterdir()}
    assert {"seed-1", "seed-2", "seed-3", "recipe.yaml", "resolved.yaml", "metrics.json", "run.json"} <= names
    manifest = read_manifest(place / "run")
    assert manifest is not None and manifest["seeds"] == [1, 2, 3] and manifest["status"] == "complete"
    assert "seed-2/adapters/letter/adapter.safetensors" in manifest["sha256"]
    weights = [read_manifest(place / "run" / f"seed-{seed}") or {} for seed in (1, 2, 3)]
    digests = {each["sha256"]["adapters/letter/adapter.safetensors"] for each in weights}
    assert len(digests) == 3
    assert "seed 2\n------" in said and "means of 3 seeds" in said and "±" in said
    assert said.count("results in") == 1 and f"results in {place / 'run'} (" in said


def test_a_seed_alone_gives_the_same_run(place: Path, said: str) -> None:
    alone = run(place / "made.yaml", ["seeds=[2]", *SEEDS[1:]], out=place / "alone", console=Console(quiet=True))
    one, many = read_manifest(alone), read_manifest(place / "run" / "seed-2")
    assert one is not None and many is not None and one["seed"] == many["seed"] == 2
    weights = [name for name in one["sha256"] if name.endswith(".safetensors")]
    assert weights and all(one["sha256"][name] == many["sha256"][name] for name in weights)
    assert not list(alone.glob("seed-*"))


def test_the_results_are_put_together(place: Path, said: str) -> None:
    results = metrics_of(place / "run")
    each = [metrics_of(place / "run" / f"seed-{seed}") for seed in (1, 2, 3)]
    assert results == aggregate(each) and results["seeds"] == [1, 2, 3]
    found = results["scores"]["composed"]["letter"]["accuracy"]
    assert found["values"] == [one["scores"]["composed"]["letter"]["accuracy"] for one in each]
    assert found["mean"] == pytest.approx(sum(found["values"]) / 3)
    pairs = {(row["system"], row["minus"], row["task"]): row for row in results["differences"]}
    assert len(pairs) == 3 * 3
    row = pairs["composed", "TF-IDF", None]
    wanted = [one["means"]["composed"] - one["means"]["TF-IDF"] for one in each]
    assert row["values"] == pytest.approx(wanted) and row["low"] <= row["mean"] <= row["high"]
    assert [point["first"] for point in results["drop_curve"]] == [0, 1]
    assert sum(found["mean"] for found in results["fusion_attention"]["letter"]["mean"].values()) == pytest.approx(1)


def test_the_resolved_recipe_has_the_seeds(place: Path, said: str) -> None:
    text = (place / "run" / "resolved.yaml").read_text("utf-8")
    recipe = validate(load_text(text, str(place / "run" / "resolved.yaml")))
    assert recipe.seeds == (1, 2, 3) and "seed" not in recipe.model_fields_set


def test_seeds_that_are_complete_are_not_run_again(place: Path, said: str) -> None:
    document, recipe = read_recipe(place / "made.yaml", SEEDS)
    job = Job(document, recipe, tuple(SEEDS), place / "copy")
    ran: list[int] = []

    def copies(job: Job, console: Console) -> Path:
        ran.append(job.recipe.seed)
        for seed in (1, 2):  # as if an earlier try had come as far as the second; the third finds them there
            shutil.copytree(place / "run" / f"seed-{seed}", job.target.with_name(f"seed-{seed}"))
        return job.target

    with pytest.raises(FileExistsError):
        run_seeds(job, Console(quiet=True), copies)
    assert ran == [1, 3] and (place / "copy.partial" / "INCOMPLETE").exists()
