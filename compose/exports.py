"""Names of a package that are imported when they are first used, so that importing it needs nothing heavy."""

from __future__ import annotations

import sys
from importlib import import_module

TYPE_CHECKING = False  # as that of `typing`, which takes long to import
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


def lazy(
    package: str, public: Mapping[str, Sequence[str]]
) -> tuple[tuple[str, ...], Callable[[str], object], Callable[[], list[str]]]:
    """What a package needs to hand on the names of its modules: `NAMES, __getattr__, __dir__ = lazy(__name__, ...)`.

    Args:
        package: its name.
        public: by module the names that it hands on.
    """
    home = {name: module for module, names in public.items() for name in names}

    def __getattr__(name: str) -> object:
        if name not in home:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        value = getattr(import_module(home[name]), name)
        setattr(sys.modules[package], name, value)  # the next access does not come here
        return value

    def __dir__() -> list[str]:
        return sorted({*vars(sys.modules[package]), *home})

    return tuple(home), __getattr__, __dir__
