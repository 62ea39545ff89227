"""What the comparison with AdapterHub's training makes of a recipe and of results; the peer itself is not needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from compose.errors import ComposeError
from compose.recipes.experiment import Experiment, build
from compose.recipes.validate import read_recipe
from tests.peer.jobs import do_jobs, make_jobs, peer_scores
from tests.peer.page import page
from tests.peer.same_training import command, main, results
from tests.peer.small import write_small
from tests.peer.train import IGNORED, token_labels, word_tags

PEER = {"adapters": "1.3.0", "python": "3.11.7", "torch": "2.13.0", "transformers": "4.57.6"}


def experiment(path: Path, *overrides: str) -> Experiment:
    document, recipe = read_recipe(path, overrides)
    return build(recipe.model_copy(update={"seed": 3, "seeds": ()}), document)


def test_a_job_says_all_of_a_stage(tmp_path: Path) -> None:
    made = experiment(write_small(tmp_path))
    letter, town = make_jobs(made, tmp_path / "jobs")
    told = json.loads((letter.folder / "job.json").read_text("utf-8"))
    assert told == json.loads(letter.content)
    assert told["settings"] == {"learning_rate": 1e-2, "warmup": 0.1, "weight_decay": 0.1, "max_norm": 1.0}
    assert (told["seed"], json.loads(town.content)["seed"]) == (3, 4)  # each stage has a seed of its own
    assert [sorted(place for step in epoch for place in step) for epoch in told["steps"]] == [[*range(28)]] * 2
    assert max(len(step) for epoch in told["steps"] for step in epoch) == 8
    assert told["train"][0] == {"input": "a new york", "words": False, "target": "first"}
    assert told["max_length"] == 24
    first = json.loads(town.content)["train"][0]
    assert first == {"input": ["a", "new", "york"], "words": True, "target": ["O", "B-town", "I-town"]}
    config = json.loads((town.folder / "files" / "adapter_config.json").read_text("utf-8"))["config"]
    assert (config["reduction_factor"], config["original_ln_before"]) == (4, True)
    head = json.loads((letter.folder / "files" / "head_config.json").read_text("utf-8"))["config"]
    assert (head["head_type"], head["layers"], head["label2id"]) == ("classification", 2, {"first": 0, "second": 1})


def test_answers_are_scored_and_kept_for_the_same_job_only(tmp_path: Path) -> None:
    made = experiment(write_small(tmp_path))
    jobs = make_jobs(made, tmp_path / "jobs")
    right = {job.task: [row.target for row in made.test_examples({job.task: job.task})[job.task]] for job in jobs}
    for job in jobs:
        assert job.answers() is None
        found = {"job": job.digest, "answers": right[job.task]}
        (job.folder / "answers.json").write_text(json.dumps(found), "utf-8")
    do_jobs("no such interpreter", jobs, threads=1)  # nothing is left to do
    for job, metric in zip(jobs, ("accuracy", "f1"), strict=True):
        answers = job.answers()
        assert answers is not None and peer_scores(made, job, answers)[metric] == 1.0
    wrong = {"answers": [["O"] * len(tags) for tags in right["town"]]}
    assert peer_scores(made, jobs[1], wrong)["f1"] == 0.0
    other = make_jobs(experiment(tmp_path / "same.yaml", "train.0.epochs=1"), tmp_path / "jobs")
    assert other[0].answers() is None and other[1].answers() is not None


def test_a_job_without_chance_has_some_steps_and_no_dropout(tmp_path: Path) -> None:
    letter, _ = make_jobs(experiment(write_small(tmp_path)), tmp_path / "jobs", "compose", exact=5)
    told = json.loads(letter.content)
    assert [len(epoch) for epoch in told["steps"]] == [4, 1]
    assert (told["dropout"], told["start"], told["test"]) == (False, "compose", [])


def test_what_the_peer_cannot_do_is_said_at_once(tmp_path: Path) -> None:
    path = write_small(tmp_path)
    changed = ("train.0.scheduler=cosine", "train.1.regime=full")
    with pytest.raises(ComposeError) as caught:
        make_jobs(experiment(path, *changed), tmp_path / "jobs")
    assert len(caught.value.problems) == 2 and "train.0.scheduler" in str(caught.value)
    with pytest.raises(ComposeError, match="pooling"):
        make_jobs(experiment(path, "heads.letter.pooling=mean"), tmp_path / "jobs")


def test_words_are_labelled_at_their_first_token() -> None:
    words = [None, 0, 0, 1, None]
    assert token_labels(["O", "B-x"], {"O": 0, "B-x": 1}, words) == [IGNORED, 0, IGNORED, 1, IGNORED]
    logits = torch.tensor([[0.0, 1], [1, 0], [0, 1], [0, 1], [0, 1], [0, 1]])  # the last one is padding
    assert word_tags(logits, ["O", "B-x"], words, 3) == ["O", "B-x", None]


def found(values: dict[str, tuple[list[float], list[float]]], recipe: Any) -> dict[str, Any]:
    """Results as of runs whose scores are these, of compose and of the peer, by task."""
    ours, theirs = {}, {}
    for place, seed in enumerate((3, 4)):
        ours[seed] = {
            "main": dict.fromkeys(values, "accuracy"),
            "scores": {"adapters": {task: {"accuracy": each[0][place]} for task, each in values.items()}},
            "stages": [{"seconds": 2.0, "losses": [1.0, 0.5], "trained_parameters": 10} for _ in values],
        }
        theirs[seed] = {
            task: {
                "scores": {"accuracy": each[1][place]},
                "rows": {"train": 28, "test": 28},
                "steps": 8,
                "seconds": 3.0,
                "losses": [0.9, 0.4],
                "trained_parameters": 10,
                "versions": PEER,
            }
            for task, each in values.items()
        }
    steps = {"compose": [1.0, 0.5], "peer": [1.0, 0.50001], "largest_difference": 1e-5}
    told = {"command": "python ...", "note": "", "made": "today", "start": "own", "threads": 1}
    told |= {"exact": {"steps": 2, "seed": 3, "tasks": dict.fromkeys(values, steps)}}
    return results(recipe, ours, theirs) | told


def test_the_page_has_differences_paired_by_seed(tmp_path: Path) -> None:
    _, recipe = read_recipe(write_small(tmp_path))
    # The first differs by 1 and by -1 point, the second by 10 points with each seed.
    values = {"letter": ([0.81, 0.89], [0.80, 0.90]), "town": ([0.5, 0.7], [0.4, 0.6])}
    made = found(values, recipe)
    json.dumps(made)
    text = page(made)
    assert "| letter (accuracy) | 28 / 28 | 85.0 ± 50.8 | 85.0 ± 63.5 | +0.0 ± 12.7 |" in text
    assert "| town (accuracy) | 28 / 28 | 60.0 ± 127.1 | 50.0 ± 127.1 | +10.0 ± 0.0 |" in text
    assert "Beyond noise, since the interval does not hold 0: town." in text
    assert "| letter | 8 | 2 | 3 |" in text
    assert "| town | 1.000000 | 0.500000 | 1.0e-05 |" in text
    assert "within noise" in page(found({"letter": values["letter"], "town": values["letter"]}, recipe))


def test_mistakes_are_told_without_a_traceback(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["--peer", "python", "--data", str(tmp_path), "--recipe", "local/peer/same-training"]) == 2
    assert "data_folder=FOLDER" in capsys.readouterr().err


def test_the_command_names_no_places() -> None:
    import argparse

    given = argparse.Namespace(recipe="local/peer/same-training", set=["seeds=[1]"], start="own", threads=2)
    assert command(given) == (
        "python -m tests.peer.same_training --peer PYTHON --data FOLDER --set seeds=[1] --threads 2"
    )
