"""The page of a comparison: what two libraries' same training comes to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from compose.recipes.tables import spread

TITLE = "The same training by AdapterHub"


def page(found: Mapping[str, Any]) -> str:
    """The page as Markdown.

    Args:
        found: the results, as the JSON file holds them.
    """
    return (
        "\n\n".join(
            [
                f"# {TITLE}",
                *_told(found),
                _scores(found),
                *_verdict(found),
                *_exact(found["exact"]),
                *_costs(found),
                _again(found),
            ]
        )
        + "\n"
    )


def _told(found: Mapping[str, Any]) -> list[str]:
    peer, seeds = found["versions"]["peer"], found["seeds"]
    count = f"{len(seeds)} seeds" if len(seeds) > 1 else "one seed"
    begin = (
        "each library draws its own initial weights and dropout"
        if found["start"] == "own"
        else "the peer begins with the weights that compose begins with, and draws its own dropout"
    )
    return [
        f"The recipe `{found['recipe']}`, trained by compose and by AdapterHub's `adapters` {peer['adapters']}: the "
        f"same backbone, the same rows in the same batches, adapters and heads of the same configuration, handed over "
        f"as AdapterHub's own files, and the same loop: AdamW, the way of the learning rate, the norm that gradients "
        f"are cut to. AdapterHub tokenises the texts by itself, and compose's metrics score what both answer. What "
        f"differs is chance: {begin}.",
        f"Means over {count}, in percent, with 95 % intervals (Student's t); differences are paired by seed.",
    ]


def _scores(found: Mapping[str, Any]) -> str:
    rows = []
    for task, each in found["tasks"].items():
        name = f"{task} ({each['metric']})"
        parts = f"{each['rows']['train']} / {each['rows']['test']}"
        rows.append([name, parts, *(spread(each[side]) for side in ("compose", "peer")), _apart(each["difference"])])
    mean = found["mean"]
    rows.append(["mean", "", *(spread(mean[side]) for side in ("compose", "peer")), _apart(mean["difference"])])
    return _table(["task", "rows: train / test", "compose", "AdapterHub", "compose minus AdapterHub"], rows)


def _verdict(found: Mapping[str, Any]) -> list[str]:
    every = {**found["tasks"], "the mean": found["mean"]}
    if found["mean"]["difference"]["low"] is None:
        return ["One seed says nothing of noise."]
    beyond = [name for name, each in every.items() if not within_noise(each["difference"])]
    if not beyond:
        return ["All differences are within noise: their intervals hold 0."]
    return [f"Beyond noise, since the interval does not hold 0: {', '.join(beyond)}."]


def within_noise(difference: Mapping[str, Any]) -> bool:
    """Whether the interval of a difference holds 0."""
    return bool(difference["low"] <= 0 <= difference["high"])


def _exact(found: Mapping[str, Any]) -> list[str]:
    rows = [
        [task, f"{each['compose'][0]:.6f}", f"{each['compose'][-1]:.6f}", f"{each['largest_difference']:.1e}"]
        for task, each in found["tasks"].items()
    ]
    header = ["task", "loss of the first step", f"of step {found['steps']}", "largest difference of any step"]
    return [
        "Without chance, from the same initial weights and without dropout, the losses of the first steps are:",
        _table(header, rows),
    ]


def _costs(found: Mapping[str, Any]) -> list[str]:
    rows = [
        [task, str(each["steps"]), *(f"{each['seconds'][side]['mean']:.0f}" for side in ("compose", "peer"))]
        for task, each in found["tasks"].items()
    ]
    machine, ours, peer = found["machine"], found["versions"]["compose"], found["versions"]["peer"]
    told = [f"Seconds of one training, {found['threads']} thread(s) on {machine['cpu']}, {machine['cores']} cores:"]
    told += [_table(["task", "steps", "compose", "AdapterHub"], rows)]
    if found["note"]:
        told.append(found["note"])
    told.append(
        f"compose {ours['compose']} on Python {ours['python']}, torch {ours['torch']}, transformers "
        f"{ours['transformers']}; adapters {peer['adapters']} on Python {peer['python']}, torch {peer['torch']}, "
        f"transformers {peer['transformers']}. {found['made']}."
    )
    return told


def _again(found: Mapping[str, Any]) -> str:
    return (
        "To do it again, from a checkout: `PYTHON` is an interpreter that has `adapters` (`make test-peer` makes one "
        "in `.venv-peer`), `FOLDER` holds the data that the recipe names. What is done is kept, so that the same "
        "command goes on after an interruption. All figures, by seed, are in "
        "[peer.json](peer.json).\n\n"
        f"<!-- no-run: takes long, and needs the peer -->\n```console\n$ {found['command']}\n```"
    )


def _apart(found: Mapping[str, Any]) -> str:
    """A difference in points: its sign, and half its interval."""
    half = "" if found["high"] is None else f" ± {100 * (found['high'] - found['mean']):.1f}"
    return f"{100 * found['mean']:+.1f}{half}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
