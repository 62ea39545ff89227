"""`compose adapter`: what is done to saved adapters."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from compose.cli.libraries import prepare_libraries
from compose.errors import ConfigError, FileError

if TYPE_CHECKING:
    from compose.io.records import AdapterRecord

OTHERS = {"adapterhub": "an AdapterHub", "peft": "a PEFT"}
"""Formats that need a backbone to be read, as errors call a folder of theirs."""

app = typer.Typer(help="Work on saved adapters.", no_args_is_help=True)


@app.callback()
def _verbs() -> None:
    """Work on saved adapters."""


@app.command("merge")
def merge(
    folders: Annotated[list[Path], typer.Argument(help="Folders of adapters, in any of the three formats.")],
    into: Annotated[Path, typer.Option("--into", help="The folder to write.")],
    kind: Annotated[
        str, typer.Option("--kind", help="linear, task_arithmetic, ties, dare_linear, dare_ties, concat, svd, ...")
    ] = "linear",
    weights: Annotated[
        str | None, typer.Option("--weights", metavar="W,W,...", help="What each counts; all the same by default.")
    ] = None,
    density: Annotated[float | None, typer.Option("--density", help="The share of values kept: ties, dare.")] = None,
    scale: Annotated[float, typer.Option("--scale", help="What the merged change is multiplied by: ties.")] = 1.0,
    rank: Annotated[int | None, typer.Option("--rank", help="Of the result: svd.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of what is dropped: dare.")] = 0,
    with_heads: Annotated[bool, typer.Option("--with-heads", help="Merge the heads in the folders too.")] = False,
    name: Annotated[str | None, typer.Option("--name", help="Of the result; by default its folder's.")] = None,
    backbone: Annotated[
        str | None,
        typer.Option("--backbone", help="A short name, a hub id or a folder; for folders that are not ours."),
    ] = None,
) -> None:
    """Merge saved adapters of one method into one, without loading a backbone."""
    from compose import io
    from compose.io.merging import merge_records
    from compose.methods.merging.merge import Merge

    wanted = Merge.make(kind=kind, weights=_numbers(weights), density=density, scale=scale, rank=rank, seed=seed)
    if into.exists() and (not into.is_dir() or any(into.iterdir())):
        raise FileError("there is something already", where=str(into), hint="a folder that is empty, or not there yet")
    records = _read(folders, backbone, with_heads)
    merged = merge_records(records, name or into.resolve().name, wanted, with_heads)
    io.save_adapter(merged, into)
    sources = ", ".join(f"'{record.name}'" for record in records)
    print(f"{into}: adapter '{merged.name}', {kind} of {sources}")


def _read(folders: list[Path], backbone: str | None, with_heads: bool) -> list[AdapterRecord]:
    """The adapters of some folders; a backbone is loaded only where other libraries' keys need one to be read."""
    from compose import io
    from compose.io.detect import expect

    forms = [expect(folder, "adapter")[1] for folder in folders]
    for folder, form in zip(folders, forms, strict=True):
        if form in OTHERS and backbone is None:
            raise FileError(
                f"{OTHERS[form]} folder can only be read for a backbone",
                where=str(folder),
                why="its keys are named after the backbone's modules",
                hint="--backbone NAME",
            )
    if backbone is None:
        return [io.load_adapter(folder, with_head=with_heads) for folder in folders]
    prepare_libraries()
    from compose.runtime.attach import load
    from compose.runtime.files import fingerprint, modules_of

    model = load(backbone)
    own, modules = fingerprint(model), modules_of(model)
    records = [io.read_adapter(folder, model.spec, None, with_heads, own, modules=modules) for folder in folders]
    for record in records:
        record.fingerprint = record.fingerprint or own
    return records


def _numbers(text: str | None) -> tuple[float, ...] | None:
    """The numbers of an option.

    Raises:
        ConfigError: what is no number.
    """
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError("not numbers with commas between", where=f"--weights {text}", hint="0.5,0.5") from error
