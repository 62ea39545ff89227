"""Combine adapters over one frozen transformer.

The public names are imported when they are first used, so that `import compose` needs no torch.
`__init__.pyi` says the same to type checkers.
"""

from __future__ import annotations

from compose.exports import lazy as _lazy

__version__ = "0.1.0"

_PUBLIC = {
    "compose.dsl": (
        "Stack",
        "Fuse",
        "Parallel",
        "Drop",
        "Average",
        "Split",
        "BatchSplit",
        "Route",
        "parse",
    ),
    "compose.errors": ("ComposeError",),
    "compose.heads.output": ("MultiHeadOutput",),
    "compose.runtime.agreement": ("agreement",),
    "compose.runtime.attach": ("attach", "load", "load_plan"),
    "compose.runtime.merging": ("merge_adapters",),
    "compose.runtime.model": ("Model",),
    "compose.runtime.pruning": ("prune_fusion",),
    "compose.runtime.sparsity": ("prune_neurons", "sparsify"),
    "compose.runtime.sharing": ("share_factors", "unshare_factors"),
    "compose.train.collator": ("TaskCollator",),
}
_NAMES, __getattr__, __dir__ = _lazy(__name__, _PUBLIC)

__all__ = ["__version__", *_NAMES]
