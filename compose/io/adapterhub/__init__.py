"""Folders that AdapterHub's `adapters` (and `adapter-transformers` before it) wrote."""

from __future__ import annotations

from compose.io.adapterhub.read import read_adapter, read_fusion, read_head
from compose.io.adapterhub.reft import check_unasked
from compose.io.adapterhub.setup import read_setup

__all__ = ["check_unasked", "read_adapter", "read_fusion", "read_head", "read_setup"]
