"""`compose predict`: answers of a finished run."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from compose.cli.libraries import prepare_libraries
from compose.errors import ConfigError, FileError, InputError


@contextmanager
def hints_as_options() -> Iterator[None]:
    """Errors that hint at arguments in Python hint at the command's options."""
    try:
        yield
    except InputError as error:
        from compose.runtime.texts import TOO_LONG

        ours = {
            TOO_LONG: "--truncate, or --stride N for windows that overlap by N tokens",
            "truncate=True": "--truncate",
        }
        raise InputError([replace(each, hint=ours.get(each.hint, each.hint)) for each in error.problems]) from error


@hints_as_options()
def command(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run, or of a saved plan.")],
    texts: Annotated[list[str] | None, typer.Argument(help="Texts to answer.")] = None,
    file: Annotated[
        str | None,
        typer.Option(
            "--file",
            help="Texts from a file, one a line; of .jsonl the field 'text' (and 'pair'); of .npy images. - is stdin.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    task: Annotated[
        list[str] | None, typer.Option("--task", help="Only this task; the rest is not computed. Repeatable.")
    ] = None,
    truncate: Annotated[bool, typer.Option("--truncate", help="Cut texts that are too long.")] = False,
    stride: Annotated[
        int | None,
        typer.Option("--stride", metavar="N", help="Cut them into windows that overlap by N tokens instead."),
    ] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", help="The most texts at a time.")] = None,
    batch_tokens: Annotated[
        int | None, typer.Option("--batch-tokens", help="The most tokens at a time, padding among them.")
    ] = None,
    precision: Annotated[
        str | None, typer.Option("--precision", help="What the backbone computes in: float32 or bf16.")
    ] = None,
    compare_precision: Annotated[
        bool,
        typer.Option("--compare-precision", help="Say how far bf16 answers like float32, and how fast, instead."),
    ] = False,
) -> None:
    """Answer every task for some texts in one pass."""
    inputs: list[Any] = [*(texts or []), *(_read(file) if file else [])]
    if precision is not None and compare_precision:
        raise ConfigError("--compare-precision runs both precisions", hint="leave --precision out")
    if not inputs:
        raise InputError("there are no texts to answer", hint='compose predict RUN "a text", or --file')
    plan_folder = find_plan(folder)
    prepare_libraries()
    from compose.recipes.tables import answer_lines
    from compose.runtime.agreement import agreement
    from compose.runtime.attach import load_plan

    options: dict[str, Any] = {
        "truncate": truncate,
        "stride": stride,
        "tasks": task or None,
        "batch_size": batch_size,
        "batch_tokens": batch_tokens,
    }
    if compare_precision:
        full, half = (load_plan(plan_folder, precision=name) for name in ("float32", "bf16"))
        found = agreement(full, half, inputs, **options)
        print(json.dumps(found.to_dict()) if as_json else f"bf16 against float32\n{found}")
        return
    plan = load_plan(plan_folder, precision=precision)
    answers = plan.predict(inputs, **options)
    for number, (given, answer) in enumerate(zip(inputs, answers, strict=True)):
        told = {"text": _told(given, number), "answers": {str(name): value for name, value in answer.items()}}
        print(json.dumps(told, ensure_ascii=False) if as_json else answer_lines(told))


def find_plan(folder: Path) -> Path:
    """The folder of the plan that a run answers with; a plan's own folder is itself.

    Raises:
        FileError: there is none.
    """
    if not folder.is_dir():
        raise FileError("there is no such folder", where=str(folder))
    for place in (folder / "plan", folder):
        if any(place.glob("*.json")) and not (place / "run.json").exists():
            return place
    seeds = sorted(place.parent.parent for place in folder.glob("seed-*/plan/*.json"))
    if seeds:
        raise FileError("a run of several seeds; each has its own answers", where=str(folder), hint=str(seeds[0]))
    unfinished = (folder / "INCOMPLETE").exists()
    raise FileError(
        "the run is not complete" if unfinished else "there is neither a run nor a saved plan in it",
        where=str(folder),
        hint="the folder that `compose run` names at its end",
    )


def _read(file: str) -> list[Any]:
    """The texts of a file, or its images."""
    if file == "-":
        return [line.rstrip("\n") for line in sys.stdin if line.strip()]
    if file.endswith(".npy"):
        return _images(file)
    try:
        with open(file, encoding="utf-8") as lines:
            found = [(number, line.rstrip("\n")) for number, line in enumerate(lines, 1) if line.strip()]
    except OSError as error:
        raise FileError(f"cannot be read: {error.strerror or error}", where=file) from None
    except UnicodeDecodeError:
        raise FileError("is not UTF-8 text", where=file) from None
    if not file.endswith(".jsonl"):
        return [line for _, line in found]
    return [_record(line, f"{file}:{number}") for number, line in found]


def _images(file: str) -> list[Any]:
    """The images of an array `[images, height, width]` or `[images, channels, height, width]`."""
    import numpy as np

    try:
        found = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or str(error).splitlines()[0]
        raise FileError("is no array of numpy's that can be read", where=file, why=why) from None
    if getattr(found, "ndim", 0) not in (3, 4):
        what = "holds no images: an array is [images, height, width] or [images, channels, height, width]"
        raise FileError(what, where=file)
    return list(found)


def _told(given: Any, number: int) -> str:
    """What to call an input in the answers."""
    if isinstance(given, str):
        return given
    return " | ".join(given) if isinstance(given, tuple) else f"image {number}"


def _record(line: str, where: str) -> Any:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise FileError(f"not JSON: {error.msg}", where=f"{where}:{error.colno}") from None
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        raise FileError("a line is a JSON object with a 'text'", where=where)
    return (row["text"], row["pair"]) if isinstance(row.get("pair"), str) else row["text"]
