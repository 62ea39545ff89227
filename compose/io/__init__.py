"""Files: the native format, AdapterHub's and PEFT's folders, and the fingerprint that tells backbones apart."""

from __future__ import annotations

from compose.io.adapterhub import read_setup
from compose.io.composition import load_composition, save_composition
from compose.io.detect import Contents, detect
from compose.io.fingerprint import Fingerprint
from compose.io.load import check_backbone, read_adapter, read_composition, read_fusion, read_head
from compose.io.modules import BackboneModules
from compose.io.native import (
    load_adapter,
    load_fusion,
    load_head,
    save_adapter,
    save_fusion,
    save_head,
)
from compose.io.records import AdapterRecord, CompositionRecord, FusionRecord, HeadRecord, fusion_sites
from compose.io.save import write_adapter, write_composition, write_fusion, write_head
from compose.io.store import leftovers

__all__ = [
    "AdapterRecord",
    "BackboneModules",
    "CompositionRecord",
    "Contents",
    "Fingerprint",
    "FusionRecord",
    "HeadRecord",
    "check_backbone",
    "detect",
    "fusion_sites",
    "leftovers",
    "load_adapter",
    "load_composition",
    "load_fusion",
    "load_head",
    "read_adapter",
    "read_composition",
    "read_fusion",
    "read_head",
    "read_setup",
    "save_adapter",
    "save_composition",
    "save_fusion",
    "save_head",
    "write_adapter",
    "write_composition",
    "write_fusion",
    "write_head",
]
