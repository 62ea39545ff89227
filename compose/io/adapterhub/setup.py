"""Reading the expression of AdapterHub's `adapter_setup.json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compose.dsl import Expression, from_json
from compose.errors import ComposeError, FileError
from compose.io.records import as_file_error
from compose.io.store import View

SETUP = "adapter_setup.json"

_BLOCKS = ("Stack", "Fuse", "Parallel", "Split", "BatchSplit", "Average")
_OPTIONS = {"splits": "sizes", "batch_sizes": "sizes", "weights": "weights"}
_LISTS = ("splits", "batch_sizes")
_DEPTH = 32


def read_setup(folder: View) -> Expression:
    """The expression.

    The file never says a fusion's own name, which layers were dropped, or that weights are not to be
    normalised: these are lost, and the expression is without them.

    Raises:
        FileError: damaged, or a block that is not ours.
    """
    where = str(folder.path / SETUP)
    content = folder.manifest(SETUP)
    form = _form(content.get("adapter_setup"), where, 0)
    try:
        return from_json(form)
    except ComposeError as error:
        raise as_file_error(error, where) from error


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
