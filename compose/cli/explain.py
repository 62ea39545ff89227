"""`compose explain`: what an expression would run, and what it would cost."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from compose.cli.libraries import prepare_libraries
from compose.errors import ComposeError, ConfigError, ExpressionError, Problem

if TYPE_CHECKING:
    from compose.dsl import Expression
    from compose.runtime.model import Model

DEFAULT_METHOD = "seq_bn"


class Format(StrEnum):
    """How to say it."""

    text = "text"
    mermaid = "mermaid"
    dot = "dot"
    json = "json"


def command(
    expression: Annotated[str, typer.Argument(help="""Such as 'Parallel("a", tone=Fuse("b", "c"))'.""")],
    backbone: Annotated[str, typer.Option("--backbone", help="A short name, a hub id or a folder.")] = "minilm",
    format_: Annotated[Format, typer.Option("--format", help="How to say it.")] = Format.text,
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            "--adapter",
            metavar="NAME=METHOD[,OPTION=VALUE...]",
            help=f"What an adapter is; {DEFAULT_METHOD} where nothing is said. Repeatable.",
        ),
    ] = None,
    labels: Annotated[int, typer.Option("--labels", min=2, help="Labels of the heads, for their cost.")] = 2,
    rows: Annotated[int, typer.Option("--rows", min=1, help="Rows of the batch.")] = 8,
    tokens: Annotated[int, typer.Option("--tokens", min=1, help="Tokens of a row.")] = 128,
) -> None:
    """Say what an expression runs on which rows of each layer, and what that costs.

    Adapters need not exist: each is taken for a fresh seq_bn unless --adapter says otherwise, each fusion
    for a dynamic one, and each task for one with a classification head.
    """
    from compose.dsl import as_expression, branches, leaves

    block = as_expression(expression)
    branches(block)
    methods = read_adapters(adapter or [], leaves(block))
    prepare_libraries()
    from compose.runtime.attach import load

    model = load(backbone)
    fill(model, block, methods, labels)
    explained = model.plan(block).explain(rows=rows, tokens=tokens)
    if format_ is Format.json:
        print(json.dumps(explained.to_dict(), indent=2))
    elif format_ is Format.mermaid:
        print(explained.mermaid())
    elif format_ is Format.dot:
        print(explained.dot())
    else:
        print(explained)


def read_adapters(given: list[str], names: tuple[str, ...]) -> dict[str, tuple[str, dict[str, object]]]:
    """Method and options of each adapter, from `name=method,option=value,...`.

    Raises:
        ConfigError: what cannot be read, or names no adapter of the expression.
    """
    from compose.methods.registry import make_config
    from compose.recipes.loader import scalar

    found: dict[str, tuple[str, dict[str, object]]] = {name: (DEFAULT_METHOD, {}) for name in names}
    problems: list[Problem] = []
    for text in given:
        name, equals, rest = text.partition("=")
        method, *options = rest.split(",")
        pairs = [option.partition("=") for option in options]
        if not equals or not method or any(not key or not sign for key, sign, _ in pairs):
            hint = "--adapter NAME=METHOD,OPTION=VALUE, such as nli=seq_bn,reduction_factor=8"
            problems.append(Problem("not an adapter", where=f"--adapter {text}", hint=hint))
            continue
        if name not in found:
            what = f"the expression has no adapter '{name}'"
            problems.append(Problem(what, where=f"--adapter {text}", got=name, legal=names))
            continue
        try:
            found[name] = (method, {key: scalar(value) for key, _, value in pairs})
            make_config(method, **found[name][1])
        except (ComposeError, ValueError) as error:
            own = error.problems if isinstance(error, ComposeError) else (Problem(str(error)),)
            problems += [Problem(p.what, where=f"--adapter {text}", got=p.got, legal=p.legal) for p in own]
    if problems:
        raise ConfigError(problems)
    return found


def fill(model: Model, block: Expression, methods: dict[str, tuple[str, dict[str, object]]], labels: int) -> None:
    """Gives a model everything that an expression names."""
    from compose.dsl import branches, fuses, outputs, own_name

    for name, (method, options) in methods.items():
        model.add_adapter(name, method, **options)
    for fuse in reversed(fuses(block)):
        fusion = own_name(fuse)
        if fusion is None:
            raise ExpressionError("a fusion has no name", hint="Fuse(..., name='...')")
        if fusion not in model.fusions:
            model.add_fusion(fuse)
    for branch in branches(block):
        for output in outputs(branch):
            if output.head is not None and output.head not in model.heads:
                model.add_head(output.head, "classification", labels=labels)
