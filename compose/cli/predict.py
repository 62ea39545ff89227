"""`compose predict`: answers of a finished run."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from compose.cli.libraries import prepare_libraries
from compose.errors import FileError, InputError


def command(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run, or of a saved plan.")],
    texts: Annotated[list[str] | None, typer.Argument(help="Texts to answer.")] = None,
    file: Annotated[
        str | None,
        typer.Option(
            "--file", help="Texts from a file, one a line; of .jsonl the field 'text' (and 'pair'). - is stdin."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    task: Annotated[
        list[str] | None, typer.Option("--task", help="Only this task; the rest is not computed. Repeatable.")
    ] = None,
    truncate: Annotated[bool, typer.Option("--truncate", help="Cut texts that are too long.")] = False,
    batch_size: Annotated[int | None, typer.Option("--batch-size", help="The most texts at a time.")] = None,
    batch_tokens: Annotated[
        int | None, typer.Option("--batch-tokens", help="The most tokens at a time, padding among them.")
    ] = None,
) -> None:
    """Answer every task for some texts in one pass."""
    inputs: list[Any] = [*(texts or []), *(_read(file) if file else [])]
    if not inputs:
        raise InputError("there are no texts to answer", hint='compose predict RUN "a text", or --file')
    plan_folder = find_plan(folder)
    prepare_libraries()
    from compose.recipes.tables import answer_lines
    from compose.runtime.attach import load_plan

    plan = load_plan(plan_folder)
    answers = plan.predict(
        inputs, truncate=truncate, tasks=task or None, batch_size=batch_size, batch_tokens=batch_tokens
    )
    for given, answer in zip(inputs, answers, strict=True):
        text = given if isinstance(given, str) else " | ".join(given)
        found = {"text": text, "answers": {str(name): value for name, value in answer.items()}}
        print(json.dumps(found, ensure_ascii=False) if as_json else answer_lines(found))


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
    unfinished = (folder / "INCOMPLETE").exists()
    raise FileError(
        "the run is not complete" if unfinished else "there is neither a run nor a saved plan in it",
        where=str(folder),
        hint="the folder that `compose run` names at its end",
    )


def _read(file: str) -> list[Any]:
    """The texts of a file."""
    if file == "-":
        return [line.rstrip("\n") for line in sys.stdin if line.strip()]
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


def _record(line: str, where: str) -> Any:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise FileError(f"not JSON: {error.msg}", where=f"{where}:{error.colno}") from None
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        raise FileError("a line is a JSON object with a 'text'", where=where)
    return (row["text"], row["pair"]) if isinstance(row.get("pair"), str) else row["text"]
