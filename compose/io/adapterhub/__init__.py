"""Folders of AdapterHub's `adapters` (and `adapter-transformers` before it), read and written."""

from __future__ import annotations

from compose.io.adapterhub.composition import read_composition
from compose.io.adapterhub.read import read_adapter, read_fusion, read_head
from compose.io.adapterhub.reft import check_unasked
from compose.io.adapterhub.setup import read_setup
from compose.io.adapterhub.write import adapter_files, composition_files, fusion_files, head_files

__all__ = [
    "adapter_files",
    "check_unasked",
    "composition_files",
    "fusion_files",
    "head_files",
    "read_adapter",
    "read_composition",
    "read_fusion",
    "read_head",
    "read_setup",
]
