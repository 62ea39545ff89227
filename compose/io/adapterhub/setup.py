"""The expression of AdapterHub's `adapter_setup.json`, read and written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compose.dsl import (
    BatchSplit,
    Block,
    Drop,
    Expression,
    Fuse,
    Route,
    Split,
    Stack,
    from_json,
    own_name,
    to_text,
    walk,
)
from compose.errors import ComposeError, FileError, Problem
from compose.io.records import as_file_error
from compose.io.view import View

SETUP = "adapter_setup.json"

_BLOCKS = ("Stack", "Fuse", "Parallel", "Split", "BatchSplit", "Average")
_OPTIONS = {"splits": "sizes", "batch_sizes": "sizes", "weights": "weights"}
_LISTS = ("splits", "batch_sizes")
_WRITTEN = {"Split": {"sizes": "splits"}, "BatchSplit": {"sizes": "batch_sizes"}, "Average": {"weights": "weights"}}
_DEPTH = 32


def read_setup(folder: View) -> Expression:
    """The expression.

    The file never says a fusion's own name, which layers were dropped, or that weights are not to be
    normalised: these are lost, and the expression is without them.

    Raises:
        FileError: damaged, or a block that is not ours.
    """
    where = str(folder.path / SETUP)
    return _expression(folder.manifest(SETUP).get("adapter_setup"), where)


def read_head_setup(folder: View) -> tuple[str, ...] | None:
    """The names of the heads that lie in folders of their own; None: none are named.

    Raises:
        FileError: damaged, or a model's only head.
    """
    where = str(folder.path / SETUP)
    setup = folder.manifest(SETUP).get("head_setup")
    if not setup:
        return None
    if isinstance(setup, Mapping):
        return tuple(node for _, node in walk(_expression(setup, where)) if isinstance(node, str))
    names = [setup] if isinstance(setup, str) else setup
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise FileError(f"'head_setup' is {setup!r}, not a list of names", where=where)
    return tuple(names)


def write_setup(expression: Expression) -> dict[str, Any]:
    """The `adapter_setup` of an expression.

    Raises:
        FileError: it has something that the format cannot say; all of it at once.
    """
    problems = [problem for path, node in walk(expression) if (problem := _unsaid(node, len(path)))]
    if problems:
        raise FileError(problems)
    # a setup is a block there, never a mere name
    return _tree(expression if isinstance(expression, Block) else Stack(expression))


def _expression(setup: Any, where: str) -> Expression:
    form = _form(setup, where, 0)
    try:
        return from_json(form)
    except ComposeError as error:
        raise as_file_error(error, where) from error


def _unsaid(node: Expression, depth: int) -> Problem | None:
    """What of a node the format cannot say."""
    why = ""
    if node is None:
        why = "it has no None: something always acts"
    elif isinstance(node, Drop | Route):
        why = f"it has no {type(node).__name__}"
    elif isinstance(node, Fuse) and node.name is not None and node.name != own_name(Fuse(*node.children)):
        why = "it keeps no name of a Fuse"
    elif isinstance(node, Fuse) and depth > 1:
        why = "its loader takes fusions at the top and right below it only"
    elif isinstance(node, Block) and any(label is not None for label in node.labels if node.takes_tasks):
        why = "it keeps no names of tasks: they are those of the adapters"
    elif isinstance(node, Split | BatchSplit) and None in node.sizes:
        why = "it has no size that is the rest"
    elif isinstance(node, Block) and node.options.get("normalize") is False:
        why = "it does not keep whether weights are normalised"
    if not why:
        return None
    return Problem("AdapterHub's setups cannot say this", where=to_text(node), why=why, hint="the native format")


def _tree(node: Expression) -> dict[str, Any]:
    if not isinstance(node, Block):
        return {"type": "single", "children": [node]}
    kind = type(node).__name__
    tree: dict[str, Any] = {"type": kind, "children": [_tree(child) for child in node.children]}
    given: dict[str, Any] = {_WRITTEN.get(kind, {}).get(name, ""): value for name, value in node.options.items()}
    given.pop("", None)
    return tree | ({"kwargs": given} if given else {})


def _form(node: Any, where: str, depth: int) -> Any:
    """Our JSON form of a node."""
    if node is None or isinstance(node, str):
        return node
    if not isinstance(node, Mapping) or not isinstance(node.get("children"), list) or depth > _DEPTH:
        raise FileError("the setup is not a tree of blocks with children", where=where)
    kind, children = node.get("type"), node["children"]
    if kind == "single" and len(children) == 1:
        return _form(children[0], where, depth + 1)
    if kind not in _BLOCKS:
        raise FileError(f"the block {kind!r} cannot be read", where=where, got=str(kind), legal=_BLOCKS)
    form: dict[str, Any] = {
        "block": kind,
        "children": [_form(child, where, depth + 1) for child in children],
    }
    for name, value in (node.get("kwargs") or {}).items():
        if name not in _OPTIONS:
            raise FileError(f"the option '{name}' of {kind} cannot be read", where=where, legal=tuple(_OPTIONS))
        # One number stands for as many equal sizes as there are children.
        spread = name in _LISTS and isinstance(value, int)
        form[_OPTIONS[name]] = [value] * len(children) if spread else value
    return form
