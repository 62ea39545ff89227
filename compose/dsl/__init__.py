"""The language: blocks, their text and JSON forms, and their normal form."""

from __future__ import annotations

from compose.dsl.as_json import from_json, to_json
from compose.dsl.block import MAX_DEPTH, MAX_NODES, MAX_TEXT, Block, Expression, with_children
from compose.dsl.blocks import (
    BLOCKS,
    Average,
    BatchSplit,
    Drop,
    Fuse,
    Parallel,
    Route,
    Split,
    Stack,
)
from compose.dsl.format import locate, marked, to_text
from compose.dsl.names import check_name, name_problem
from compose.dsl.normal import branches
from compose.dsl.outputs import Branch, Output, Routed, RowSelector, Slice, outputs
from compose.dsl.parse import as_expression, parse
from compose.dsl.tree import Path, fuses, leaves, own_name, walk

__all__ = [
    "BLOCKS",
    "MAX_DEPTH",
    "MAX_NODES",
    "MAX_TEXT",
    "Average",
    "BatchSplit",
    "Block",
    "Branch",
    "Drop",
    "Expression",
    "Fuse",
    "Output",
    "Parallel",
    "Path",
    "Route",
    "Routed",
    "RowSelector",
    "Slice",
    "Split",
    "Stack",
    "as_expression",
    "branches",
    "check_name",
    "from_json",
    "fuses",
    "leaves",
    "locate",
    "marked",
    "name_problem",
    "outputs",
    "own_name",
    "parse",
    "to_json",
    "to_text",
    "walk",
    "with_children",
]
