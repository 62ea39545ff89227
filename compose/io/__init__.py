"""Files: the native format, AdapterHub's and PEFT's folders, and the fingerprint that tells backbones apart.

What reads and writes weights is imported when it is first used, so that manifests can be looked at without torch.
`__init__.pyi` says the same to type checkers.
"""

from __future__ import annotations

from compose.exports import lazy as _lazy
from compose.io.detect import Contents, detect

_PUBLIC = {
    "compose.io.adapterhub": ("read_setup",),
    "compose.io.composition": (
        "load_composition",
        "save_composition",
    ),
    "compose.io.fingerprint": ("Fingerprint",),
    "compose.io.load": (
        "check_backbone",
        "read_adapter",
        "read_composition",
        "read_fusion",
        "read_head",
    ),
    "compose.io.modules": ("BackboneModules",),
    "compose.io.native": (
        "load_adapter",
        "load_fusion",
        "load_head",
        "save_adapter",
        "save_fusion",
        "save_head",
    ),
    "compose.io.records": (
        "AdapterRecord",
        "CompositionRecord",
        "FusionRecord",
        "HeadRecord",
        "fusion_sites",
    ),
    "compose.io.save": (
        "write_adapter",
        "write_composition",
        "write_fusion",
        "write_head",
    ),
    "compose.io.store": ("leftovers",),
}
_NAMES, __getattr__, __dir__ = _lazy(__name__, _PUBLIC)

__all__ = ["Contents", "detect", *_NAMES]
