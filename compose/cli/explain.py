"""`compose explain`: what an expression would run, and what it would cost."""

from __future__ import annotations

import json
from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from compose.cli.libraries import prepare_libraries
from compose.errors import ComposeError, ConfigError, ExpressionError, Problem

if TYPE_CHECKING:
    from compose.dsl import Expression
    from compose.runtime.model import Model

DEFAULT_METHOD = "seq_bn"
DEFAULT_FUSION = "dynamic"

ARTICLES = {"adapter": "an", "fusion": "a"}

Named = dict[str, tuple[str, dict[str, object]]]
"""Methods, or kinds of fusion, with their options by name."""


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
    fusion: Annotated[
        list[str] | None,
        typer.Option(
            "--fusion",
            metavar="NAME=KIND[,OPTION=VALUE...]",
            help=f"What a fusion is, such as scalearn; {DEFAULT_FUSION} where nothing is said. Repeatable.",
        ),
    ] = None,
    labels: Annotated[int, typer.Option("--labels", min=2, help="Labels of the heads, for their cost.")] = 2,
    rows: Annotated[int, typer.Option("--rows", min=1, help="Rows of the batch.")] = 8,
    tokens: Annotated[int, typer.Option("--tokens", min=1, help="Tokens of a row.")] = 128,
) -> None:
    """Say what an expression runs on which rows of each layer, and what that costs.

    Adapters need not exist: each is taken for a fresh seq_bn unless --adapter says otherwise, each fusion
    for a dynamic one unless --fusion does, and each task for one with a classification head.
    """
    from compose.dsl import as_expression, branches, fuses, leaves, own_name
    from compose.methods.fusions import make_fusion_config
    from compose.methods.registry import make_config

    block = as_expression(expression)
    branches(block)
    names = tuple(own_name(fuse) or "" for fuse in fuses(block))
    methods = read_named("adapter", adapter or [], leaves(block), DEFAULT_METHOD, make_config)
    kinds = read_named("fusion", fusion or [], names, DEFAULT_FUSION, make_fusion_config)
    prepare_libraries()
    from compose.runtime.attach import load

    model = load(backbone)
    fill(model, block, methods, kinds, labels)
    explained = model.plan(block).explain(rows=rows, tokens=tokens)
    if format_ is Format.json:
        print(json.dumps(explained.to_dict(), indent=2))
    elif format_ is Format.mermaid:
        print(explained.mermaid())
    elif format_ is Format.dot:
        print(explained.dot())
    else:
        print(explained)


def read_named(what: str, given: list[str], names: tuple[str, ...], default: str, make: Callable[..., object]) -> Named:
    """Method and options of each adapter, or kind and options of each fusion, from `name=method,option=value,...`.

    Args:
        what: `adapter` or `fusion`.
        given: what was said of some.
        names: those of the expression.
        default: the method of those of which nothing was said.
        make: checks a method with its options.

    Raises:
        ConfigError: what cannot be read, or names nothing of the expression.
    """
    from compose.recipes.loader import scalar

    found: Named = {name: (default, {}) for name in names}
    problems: list[Problem] = []
    for text in given:
        name, equals, rest = text.partition("=")
        method, *options = rest.split(",")
        pairs = [option.partition("=") for option in options]
        where = f"--{what} {text}"
        if not equals or not method or any(not key or not sign for key, sign, _ in pairs):
            hint = f"--{what} NAME={default},OPTION=VALUE"
            problems.append(Problem(f"not {ARTICLES[what]} {what}", where=where, hint=hint))
            continue
        if name not in found:
            problems.append(Problem(f"the expression has no {what} '{name}'", where=where, got=name, legal=names))
            continue
        try:
            found[name] = (method, {key: scalar(value) for key, _, value in pairs})
            make(method, **found[name][1])
        except (ComposeError, ValueError) as error:
            own = error.problems if isinstance(error, ComposeError) else (Problem(str(error)),)
            problems += [Problem(p.what, where=where, got=p.got, legal=p.legal) for p in own]
    if problems:
        raise ConfigError(problems)
    return found


def fill(model: Model, block: Expression, methods: Named, kinds: Named, labels: int) -> None:
    """Gives a model everything that an expression names."""
    from compose.dsl import branches, fuses, outputs, own_name

    for name, (method, options) in methods.items():
        model.add_adapter(name, method, **options)
    for fuse in reversed(fuses(block)):
        fusion = own_name(fuse)
        if fusion is None:
            raise ExpressionError("a fusion has no name", hint="Fuse(..., name='...')")
        if fusion not in model.fusions:
            kind, options = kinds[fusion]
            model.add_fusion(fuse, kind, **options)
    for branch in branches(block):
        for output in outputs(branch):
            if output.head is not None and output.head not in model.heads:
                model.add_head(output.head, "classification", labels=labels)
