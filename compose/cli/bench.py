"""`compose bench`: what things cost, against the plain backbone and the peer, side by side."""

from __future__ import annotations

import json
import sys
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from compose.errors import ConfigError, InputError

if TYPE_CHECKING:
    from compose.bench.case import Case
    from compose.bench.measure import Settings


class Size(StrEnum):
    """Which backbone with random weights."""

    base = "base"
    tiny = "tiny"


class Device(StrEnum):
    """What computes."""

    cpu = "cpu"
    cuda = "cuda"


FROM = ("from_", "page")
LIST = ("list_", "cases")
"""What may stand beside `--from` and `--list`, which measure nothing."""


def command(
    context: typer.Context,
    cases: Annotated[list[str] | None, typer.Argument(metavar="[CASE]...", help="Cases; all by default.")] = None,
    peer: Annotated[
        str | None, typer.Option("--peer", metavar="PYTHON", help="An interpreter that has `adapters` installed.")
    ] = None,
    json_: Annotated[Path | None, typer.Option("--json", metavar="OUT", help="Write the figures to a file.")] = None,
    page: Annotated[
        Path | None, typer.Option("--page", metavar="FILE", help="Write a Markdown page, with plots beside it.")
    ] = None,
    from_: Annotated[
        list[Path] | None,
        typer.Option("--from", metavar="JSON", help="Take the figures of a file instead of measuring. Repeatable."),
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the cases and what they must reach.")] = False,
    size: Annotated[Size, typer.Option("--size", help="Of the backbone: BERT-base, or a tiny one.")] = Size.base,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="How often each contestant has its turn.")] = 5,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Of each process.")] = 2,
    device: Annotated[Device, typer.Option("--device", help="What computes.")] = Device.cpu,
    texts: Annotated[
        Path | None,
        typer.Option(
            "--texts",
            metavar="FILE",
            help="Real texts: lines, or the field 'text' of .jsonl and .csv. The bundled messages by default.",
        ),
    ] = None,
    note: Annotated[str, typer.Option("--note", help="What the page should say of the figures.")] = "",
) -> None:
    """Measure what things cost: ours, the plain backbone and the peer in turn, each in a process of its own."""
    from compose.bench.cases import find
    from compose.bench.document import check_writable, read_json

    if list_:
        _only(context, LIST, "--list measures nothing")
    chosen = find(cases or [])
    if list_:
        _list(chosen)
        return
    if from_:
        _only(context, FROM, "--from takes figures as they are")
    _check_apart(page, [*(from_ or ()), *filter(None, (json_,))])
    for path in filter(None, (json_, page)):
        check_writable(path)
    if from_:
        documents = [read_json(path) for path in from_]
        if page is None:
            _print([case for found in documents for case in found["cases"]])
        else:
            _write(page, documents)
        return
    if device is Device.cuda:
        _check_gpu()
    chosen = _on(device, chosen)
    if page is not None:
        _check_plots(chosen)
    from compose.bench.measure import Settings

    with tempfile.TemporaryDirectory() as folder:
        given = _texts(texts, Path(folder))
        settings = Settings(size.value, rounds, threads, device.value, peer, given, _folder(chosen, peer))
        found = _measure(chosen, settings, json_, note)
    if page is not None:
        _write(page, [found])
    if any("error" in one for case in found["cases"] for one in case["contestants"].values()):
        raise typer.Exit(1)


def _measure(cases: tuple[Case, ...], settings: Settings, out: Path | None, note: str) -> dict[str, Any]:
    """Measures cases one after the other; what is finished is printed and written."""
    from compose.bench.console import progress
    from compose.bench.document import command_line, document, write_json
    from compose.bench.measure import measure, steps_of
    from compose.bench.workers import check_peer

    versions = None if settings.peer is None else check_peer(settings.peer)
    words = command_line(sys.argv[1:])
    done: list[dict[str, Any]] = []
    found = document(done, settings, versions, words, note)
    with progress(steps_of(cases, settings)) as on_step:
        for case in cases:
            done.append(measure(case, settings, on_step))
            found = document(done, settings, versions, words, note)
            _print(done[-1:])
            if out is not None:
                write_json(out, found)
    return found


def _texts(file: Path | None, folder: Path) -> str:
    """The texts as a JSON list in a file that every worker reads, whatever its interpreter."""
    from compose.bench.texts import bundled_texts, read_texts

    texts = bundled_texts() if file is None else read_texts(file)
    path = folder / "texts.json"
    path.write_text(json.dumps(texts), "utf-8")
    return str(path)


def _check_gpu() -> None:
    import torch

    if not torch.cuda.is_available():
        raise InputError("there is no GPU that torch can use", where="--device cuda", hint="--device cpu")


def _only(context: typer.Context, allowed: tuple[str, ...], what: str) -> None:
    """ConfigError: options were given that would be ignored."""
    ignored = [
        parameter.opts[0] if parameter.param_type_name == "option" else "CASE"
        for parameter in context.command.params
        if parameter.name not in allowed and _is_given(context, parameter.name or "")
    ]
    if ignored:
        raise ConfigError(what, why=f"so it would ignore {', '.join(ignored)}", hint=f"leave out {', '.join(ignored)}")


def _check_apart(page: Path | None, figures: list[Path]) -> None:
    """ConfigError: the page would be written over figures."""
    if page is not None and page.resolve() in {path.resolve() for path in figures}:
        raise ConfigError("--page would be written over the figures", where=str(page), hint="--page benchmarks.md")


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _on(device: Device, cases: tuple[Case, ...]) -> tuple[Case, ...]:
    """The cases that can run on a device; says which cannot."""
    for case in cases:
        if case.device not in ("", device.value):
            print(f"{case.name}: skipped, for it runs on --device {case.device} only", file=sys.stderr)
    return tuple(case for case in cases if case.device in ("", device.value))


def _check_plots(cases: tuple[Case, ...]) -> None:
    """ConfigError: the page would have plots, but there is nothing to draw them with."""
    from compose.bench.plots import PLOTS
    from compose.train.extras import require

    if any(case.name in PLOTS for case in cases):
        require("matplotlib.figure")


def _folder(cases: tuple[Case, ...], peer: str | None) -> str:
    """Where the peer finds the backbone that cases over real texts name."""
    names = [
        one.options["backbone"] for case in cases for one in case.contestants if one.peer and "backbone" in one.options
    ]
    if peer is None or not names:
        return ""
    from compose.runtime.attach import locate_backbone

    return locate_backbone(names[0])


def _print(cases: list[dict[str, Any]]) -> None:
    from compose.bench.console import results

    for case in cases:
        print(results(case), flush=True)


def _write(page: Path, documents: list[dict[str, Any]]) -> None:
    from compose.bench.page import write_page

    for path in write_page(page, documents):
        print(path)


def _list(cases: tuple[Case, ...]) -> None:
    from dataclasses import asdict

    from compose.bench.tables import amount, wording

    for case in cases:
        print(f"{case.name:<22}{case.shows}")
        for target in case.targets:
            told = asdict(target)
            print(f"{'':<24}{wording(told)}, {amount(told, target.at_most, limit=True)}")
