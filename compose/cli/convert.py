"""`compose convert`: what a folder holds, written in another format."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from compose.cli.libraries import prepare_libraries
from compose.errors import BackboneError, ConfigError

if TYPE_CHECKING:
    from compose.runtime.model import Model


class Format(StrEnum):
    """Whose format to write."""

    native = "native"
    adapterhub = "adapterhub"
    peft = "peft"


def command(
    source: Annotated[Path, typer.Argument(metavar="FOLDER", help="An adapter, fusion, head or plan in any format.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write.")],
    format_: Annotated[Format, typer.Option("--format", help="Whose format to write.")] = Format.native,
    backbone: Annotated[
        str | None, typer.Option("--backbone", help="A short name, a hub id or a folder; a plan of ours names its own.")
    ] = None,
    task_type: Annotated[str | None, typer.Option("--task-type", help="PEFT's word for the task.")] = None,
) -> None:
    """Read a folder in any of the three formats and write it in one of them.

    What the new format cannot say is an error. A head that lies beside an adapter goes with it.
    """
    from compose import io
    from compose.dsl import to_text

    if task_type is not None and format_ is not Format.peft:
        raise ConfigError(f"a task_type is PEFT's, and the format is {format_}", where="--task-type")
    kinds = io.detect(source).kinds
    prepare_libraries()
    from compose.runtime.attach import load, load_plan

    if "composition" in kinds:
        plan = load_plan(source, load(backbone) if backbone is not None else None)
        plan.save(target, format=format_.value)
        print(f"{target}: plan {to_text(plan.expression)}")
        return
    if backbone is None:
        raise BackboneError("the folder does not say which backbone it is for", where=str(source), hint="--backbone")
    model = load(backbone)
    options: dict[str, Any] = {} if task_type is None else {"task_type": task_type}
    if "adapter" in kinds:
        name = _load_adapter(model, source)
        model.save_adapter(name, target, with_head=name in model.heads, format=format_.value, **options)
        print(f"{target}: adapter {name}{' with its head' if name in model.heads else ''}")
    if "fusion" in kinds:
        name = model.load_fusion(source)
        model.save_fusion(name, target, format=format_.value)
        print(f"{target}: fusion {name}")
    if "head" in kinds and "adapter" not in kinds:
        name = model.load_head(source)
        model.save_head(name, target, format=format_.value)
        print(f"{target}: head {name}")


def _load_adapter(model: Model, folder: Path) -> str:
    """Loads an adapter with the head beside it, if there is one of its name."""
    from compose import io
    from compose.runtime.files import modules_of

    head = io.read_adapter(folder, model.spec, modules=modules_of(model)).head
    return model.load_adapter(folder, with_head=head is not None)
