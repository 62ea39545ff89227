"""The page of figures: a Markdown file and its plots, written from the JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compose.bench import plots
from compose.bench.document import write_text
from compose.bench.tables import Result, amount, contestant_table, remarks, target_table, wording
from compose.recipes.console import table

GIB = 1 << 30

INTRODUCTION = """\
# Benchmarks

What composing costs, against the plain backbone and against AdapterHub's `adapters` on the same machine. This page
is written by `compose bench` from the figures that it measured; nothing on it is typed in by hand.

Each contestant of a case runs in a process of its own. The processes live through all rounds and compute only when it
is their turn, one after the other, so that whatever else the machine does meets all of them alike. One call before the
first round warms up and is not counted. Given are the minimum and the median over the calls of all rounds; ratios are
of medians, and a target counts as reached if the medians reach it. *Peak* is the largest memory of the process while
it computes, above what it held when its model was loaded: with a GPU what torch allocates there. FLOPs are counted by
torch while the same call runs with eager attention; *by FLOPs* is the ratio that follows from them, if all ran at the
same rate. Backbones have random weights unless a case says otherwise, which changes neither time nor memory. The plain
backbone is run as it is; in training, it is fine-tuned whole. In inference, glibc's allocator is told to keep what is
freed, in all processes alike (`MALLOC_MMAP_THRESHOLD_`, `MALLOC_TRIM_THRESHOLD_`): left to itself it fetches memory for
large tensors anew in each call of some processes and not of others, depending on what these did before."""

UNTESTED = "GPUs are untested: no figures of one were at hand."

YOURSELF = """\
## Measure it yourself

<!-- no-run: takes an hour -->
```console
$ compose bench --peer venv/bin/python --texts texts.jsonl --json figures.json
```

`--peer` is an interpreter that has `adapters` installed; without one the peer is left out. Texts are the lines of a
file, or the field `text` of `.jsonl` and `.csv`; without `--texts` they are the bundled messages, repeated. Finished
cases are printed and written at once, and Ctrl-C keeps them. `--page FILE` writes such a page, also from files of
figures that were measured at other times or on other machines: `--from FILE`. `--rounds`, `--threads` and `--device`
say how to measure, `--note` what else the page should say of the figures, and
`--size tiny` tries a case out in seconds. Names choose cases:

```console
$ compose bench fuse-inference texts --list
fuse-inference ...
ours: time against plain, at most 1.18 ×
```"""


@dataclass
class Place:
    """All that was measured on one machine and device: documents, and for each case its latest result."""

    machine: Mapping[str, Any]
    device: str
    documents: list[Mapping[str, Any]] = field(default_factory=list)
    cases: dict[str, Result] = field(default_factory=dict)


def write_page(path: Path, documents: Sequence[Mapping[str, Any]]) -> list[Path]:
    """Writes the page, and its plots beside it.

    Args:
        path: the page's file.
        documents: figures as they were written by `--json`; of a case that is in several of one machine, the last
            counts.

    Returns:
        What was written.
    """
    found = places(documents)
    parts, written = [INTRODUCTION], [path]
    for number, place in enumerate(found):
        parts += [_heading(place), _documents(place), _overview(place)]
        for case in place.cases.values():
            parts.append(_case(case))
            draw = plots.PLOTS.get(case["name"])
            if draw is not None:
                image = path.with_name(f"{path.stem}-{case['name']}{f'-{number + 1}' if number else ''}.svg")
                if draw(image, case):
                    written.append(image)
                    parts.append(f"![{case['shows']}]({image.name})")
    if not any(place.device == "cuda" for place in found):
        parts.append(UNTESTED)
    parts.append(YOURSELF)
    write_text(path, "\n\n".join(parts) + "\n")
    return written


def places(documents: Sequence[Mapping[str, Any]]) -> list[Place]:
    """The documents by machine and device, in the order in which these first occur."""
    found: dict[tuple[str, ...], Place] = {}
    for one in documents:
        machine = one["machine"]
        key = (machine["cpu"], str(machine["cores"]), machine.get("gpu", ""), one["device"])
        place = found.setdefault(key, Place(machine, one["device"]))
        place.documents.append(one)
        place.cases.update({case["name"]: case for case in one["cases"]})
    return list(found.values())


def _heading(place: Place) -> str:
    machine = place.machine
    with_what = ", ".join(machine["instructions"])
    title = machine.get("gpu") or machine["cpu"] if place.device == "cuda" else machine["cpu"]
    lines = [
        f"## {title}",
        "",
        f"{machine['cpu']}, {machine['cores']} cores{f' ({with_what})' if with_what else ''}, "
        f"{machine['memory'] / GIB:.0f} GiB of memory, {machine['system']}.",
    ]
    return "\n".join(lines)


def _documents(place: Place) -> str:
    """Date, threads, versions and command of each measurement."""
    parts = []
    for one in place.documents:
        versions = "; ".join(
            f"{who}: {', '.join(f'{name} {version}' for name, version in found.items())}"
            for who, found in one["versions"].items()
        )
        parts.append(f"Measured on {one['date']} with {one['threads']} threads. {versions[:1].upper()}{versions[1:]}.")
        if one.get("note"):
            parts.append(f"*{one['note']}*")
        parts.append(f"<!-- no-run: takes long -->\n```console\n$ {one['command']}\n```")
    return "\n\n".join(parts)


def _overview(place: Place) -> str:
    rows = [
        [
            case["name"],
            wording(target),
            amount(target, target["at_most"], limit=True),
            "not measured" if "value" not in target else amount(target, target["value"]),
            "" if "value" not in target else "yes" if target["reached"] else "**no**",
        ]
        for case in place.cases.values()
        for target in case["targets"]
    ]
    return table(["case", "what", "to reach", "measured", "reached"], rows)


def _case(case: Result) -> str:
    texts = [one["facts"]["texts"] for one in case["contestants"].values() if "texts" in one.get("facts", {})]
    kind = "a step of training" if case["training"] else "inference"
    what = f"{case['shows'][0].upper()}{case['shows'][1:]}."
    shape = f"{texts[0]} texts" if texts else f"{case['rows']} × {case['tokens']} tokens, {kind}"
    turns = f"{case['rounds']} round{'s' if case['rounds'] > 1 else ''} of {case['calls']}"
    parts = [f"### {case['name']}", f"{what} {shape}; {turns}.", contestant_table(case)]
    if case["targets"]:
        parts.append(target_table(case))
    parts += [line.splitlines()[0] for line in remarks(case)]
    return "\n\n".join(parts)
