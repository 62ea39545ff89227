"""Folders of Hugging Face's `peft`, read and written."""

from __future__ import annotations

from compose.io.peft.read import read_adapter
from compose.io.peft.write import adapter_files

__all__ = ["adapter_files", "read_adapter"]
