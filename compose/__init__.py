"""Combine adapters over one frozen transformer.

The public names are imported when they are first used, so that `import compose` needs no torch.
`__init__.pyi` says the same to type checkers.
"""

from __future__ import annotations

from importlib import import_module

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
_HOME = {name: module for module, names in _PUBLIC.items() for name in names}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'compose' has no attribute '{name}'")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value  # the next access does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
