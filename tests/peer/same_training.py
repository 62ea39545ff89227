"""A recipe trained by compose and by AdapterHub, seed by seed; writes what both score.

`python -m tests.peer.same_training --peer PYTHON --data FOLDER`. What is done is kept: the same command goes on after
an interruption.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from compose.bench.machine import machine, now, versions
from compose.errors import ComposeError
from compose.recipes.aggregate import Metrics, difference, estimate
from compose.recipes.document import Document
from compose.recipes.experiment import build
from compose.recipes.manifest import seed_folder
from compose.recipes.runner import run
from compose.recipes.schema import Recipe
from compose.recipes.shipped import find
from compose.recipes.validate import read_recipe
from tests.peer.exact import STEPS, same_steps
from tests.peer.jobs import Job, Start, do_jobs, make_jobs, peer_scores
from tests.peer.page import page

RECIPE = "local/peer/same-training"
Results = dict[str, Any]


def compare(
    recipe: str,
    overrides: Sequence[str],
    peer: str,
    runs: Path,
    threads: int = 1,
    start: Start = "own",
) -> Results:
    """Has both sides train, as far as they have not, and gives what they score.

    Args:
        recipe: its name or file.
        overrides: `key=value` each.
        peer: the interpreter that has `adapters`.
        runs: the folder that keeps what is done.
        threads: how many each side computes with.
        start: whose weights the peer begins with.

    Returns:
        As `peer.json` holds it.

    Raises:
        ComposeError: the recipe is wrong, not one that the peer can do, or a side failed.
    """
    torch.set_num_threads(threads)
    document, read = read_recipe(find(recipe), overrides)
    seeds = read.seeds or (read.seed,)
    ours, theirs = {}, {}
    folder = runs / "compose"
    experiment = build(read.model_copy(update={"seed": seeds[0], "seeds": ()}), document)
    exact = same_steps(experiment, make_jobs(experiment, runs / "exact", "compose", STEPS), peer, threads)
    apart = max(each["largest_difference"] for each in exact["tasks"].values())
    say(f"from the same weights, without dropout: losses of {STEPS} steps are at most {apart:.1e} apart")
    for seed in seeds:
        one = [*overrides, f"seeds=[{seed}]"] if read.seeds else overrides
        done = run(find(recipe), one, folder / seed_folder(seed), resume=True)
        ours[seed] = json.loads((done / "metrics.json").read_text("utf-8"))
        jobs, theirs[seed] = peer_seed(document, read, seed, peer, runs / f"peer-{start}", threads, start)
        say(f"seed {seed}: " + ", ".join(f"{job.task} {told(ours[seed], theirs[seed], job.task)}" for job in jobs))
    return results(read, ours, theirs) | {"start": start, "threads": threads, "exact": exact}


def peer_seed(
    document: Document, recipe: Recipe, seed: int, peer: str, folder: Path, threads: int, start: Start
) -> tuple[list[Job], Results]:
    """The jobs of one seed, and what the peer found, by task."""
    place = folder / seed_folder(seed)
    experiment = build(recipe.model_copy(update={"seed": seed, "seeds": ()}), document)
    jobs = make_jobs(experiment, place, start)
    do_jobs(peer, jobs, threads)
    found = {}
    for job in jobs:
        answers = job.answers()
        assert answers is not None
        rows = {part: len(json.loads(job.content)[part]) for part in ("train", "test")}
        steps = sum(map(len, json.loads(job.content)["steps"]))
        found[job.task] = {
            **{key: answers[key] for key in ("versions", "seconds", "losses", "trained_parameters")},
            "scores": peer_scores(experiment, job, answers),
            "rows": rows,
            "steps": steps,
        }
    return jobs, found


def results(recipe: Recipe, ours: Mapping[int, Metrics], theirs: Mapping[int, Results]) -> Results:
    """What both sides score, seed by seed, put together.

    Args:
        recipe: the recipe; its first evaluated expression counts.
        ours: the `metrics.json` of each seed.
        theirs: what the peer found for each seed, by task.
    """
    seeds = list(ours)
    first, system = ours[seeds[0]], next(iter(recipe.evaluate.expressions))
    tasks, means = {}, {"compose": dict.fromkeys(seeds, 0.0), "peer": dict.fromkeys(seeds, 0.0)}
    for index, stage in enumerate(recipe.train):
        task = stage.expression
        metric, of_peer = first["main"][task], theirs[seeds[0]][task]
        scores = {
            "compose": {seed: ours[seed]["scores"][system][task][metric] for seed in seeds},
            "peer": {seed: theirs[seed][task]["scores"][metric] for seed in seeds},
        }
        seconds = {
            "compose": [ours[seed]["stages"][index]["seconds"] for seed in seeds],
            "peer": [theirs[seed][task]["seconds"] for seed in seeds],
        }
        tasks[task] = {
            "metric": metric,
            "rows": of_peer["rows"],
            "steps": of_peer["steps"],
            "trained_parameters": {
                "compose": first["stages"][index]["trained_parameters"],
                "peer": of_peer["trained_parameters"],
            },
            **_compared(scores),
            "seconds": {side: estimate(values).to_dict() for side, values in seconds.items()},
            "last_loss": {
                "compose": estimate(ours[seed]["stages"][index]["losses"][-1] for seed in seeds).to_dict(),
                "peer": estimate(theirs[seed][task]["losses"][-1] for seed in seeds).to_dict(),
            },
        }
    for side, values in means.items():
        for place, seed in enumerate(seeds):
            values[seed] = statistics.fmean(each[side]["values"][place] for each in tasks.values())
    return {
        "recipe": recipe.name,
        "seeds": seeds,
        "tasks": tasks,
        "mean": _compared(means),
        "versions": {"compose": versions(), "peer": next(iter(theirs[seeds[0]].values()))["versions"]},
        "machine": machine(),
    }


def _compared(scores: Mapping[str, Mapping[int, float]]) -> Results:
    """Both sides' scores by seed as estimates, and the first minus the second."""
    apart = difference(scores["compose"], scores["peer"])
    assert apart is not None
    found = {side: estimate(values.values()).to_dict() for side, values in scores.items()}
    return found | {"difference": apart.to_dict()}


def told(ours: Metrics, theirs: Results, task: str) -> str:
    """One seed's scores of a task by both sides."""
    metric = ours["main"][task]
    own = next(iter(ours["scores"].values()))[task][metric]
    return f"{100 * own:.1f} and {100 * theirs[task]['scores'][metric]:.1f}"


def say(text: str) -> None:
    """Tells how far it is."""
    print(text, flush=True)


def main(arguments: Sequence[str]) -> int:
    """The command; gives its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.peer.same_training", description=__doc__)
    parser.add_argument("--peer", metavar="PYTHON", required=True, help="an interpreter that has `adapters`")
    parser.add_argument("--data", metavar="FOLDER", required=True, help="holds the data that the recipe names")
    parser.add_argument("--recipe", default=RECIPE, help="a recipe whose stages train one adapter each")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="replace a value of the recipe")
    parser.add_argument("--start", choices=["own", "compose"], default="own", help="whose weights the peer begins with")
    parser.add_argument("--threads", type=int, default=1, help="that each side computes with")
    parser.add_argument("--runs", type=Path, default=Path("runs/same-training"), help="keeps what is done")
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="where peer.md and peer.json go")
    parser.add_argument("--note", default="", help="a sentence for the page, on what else the machine did")
    given = parser.parse_args(arguments)
    overrides = [f"data_folder={Path(given.data).absolute()}", *given.set]
    try:
        found = compare(given.recipe, overrides, given.peer, given.runs, given.threads, given.start)
    except ComposeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    found |= {"recipe": given.recipe, "command": command(given), "note": given.note, "made": now()}
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "peer.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    (given.out / "peer.md").write_text(page(found), "utf-8")
    return 0


def command(given: argparse.Namespace) -> str:
    """The command that does the same again, without places of this machine."""
    parts = ["python -m tests.peer.same_training --peer PYTHON --data FOLDER"]
    parts += [f"--recipe {given.recipe}"] if given.recipe != RECIPE else []
    parts += [f"--set {each}" for each in given.set]
    parts += [f"--start {given.start}"] if given.start != "own" else []
    parts += [f"--threads {given.threads}"] if given.threads != 1 else []
    return " ".join(parts)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
