"""`compose methods`: the methods side by side."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from compose.cli.libraries import prepare_libraries

if TYPE_CHECKING:
    from compose.runtime.catalogue import Entry
    from compose.specs import BackboneSpec

MARKS = {(True, True): "yes", (True, False): "alike", (False, True): "mixed", (False, False): "no"}
"""Whether a block takes two of a method, and one beside a bottleneck."""


class Format(StrEnum):
    """How to say it."""

    text = "text"
    markdown = "markdown"


def command(
    backbone: Annotated[
        str | None, typer.Option("--backbone", help="A short name, a hub id or a folder; BERT-base by default.")
    ] = None,
    tokens: Annotated[int, typer.Option("--tokens", min=1, help="Tokens of a row, for the cost.")] = 128,
    format_: Annotated[Format, typer.Option("--format", help="How to say it.")] = Format.text,
) -> None:
    """List the presets of all methods: trained weights, file size, FLOPs, and what composes with what.

    Blocks: `yes` takes two of it, and one beside a bottleneck; `alike` only the former, `mixed` only the latter.
    """
    prepare_libraries()
    from compose.runtime.catalogue import catalogue

    print(table(list(catalogue(spec_of(backbone), tokens)), format_))


def spec_of(backbone: str | None) -> BackboneSpec:
    """The spec of a backbone; of BERT-base, without its weights, where none is named."""
    if backbone is not None:
        from compose.runtime.attach import load

        return load(backbone).spec
    import torch
    from transformers import BertConfig, BertModel

    from compose.backbones.resolve import resolve

    with torch.device("meta"):
        return resolve(BertModel(BertConfig())).spec


def table(entries: list[Entry], format_: Format = Format.markdown) -> str:
    """The entries as a table."""
    from compose.runtime.catalogue import BLOCKS

    heads = ["preset", "trained", "file, kB", "FLOPs", *BLOCKS]
    rows = [
        [
            f"`{entry.preset}`" if format_ is Format.markdown else entry.preset,
            f"{entry.parameters:,}",
            f"{entry.file_bytes / 1000:,.0f}",
            f"+{100 * entry.flops:.2f}%",
            *(MARKS[block in entry.alike, block in entry.mixed] for block in BLOCKS),
        ]
        for entry in entries
    ]
    widths = [max(len(row[column]) for row in [heads, *rows]) for column in range(len(heads))]
    lines = [_aligned(row, widths) for row in [heads, *rows]]
    if format_ is Format.text:
        return "\n".join("  ".join(line).rstrip() for line in lines)
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], rule, *lines[1:]])


def _aligned(row: list[str], widths: list[int]) -> list[str]:
    return [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
