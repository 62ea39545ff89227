"""Modules under users' names, which torch may not allow as names of attributes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from compose.dsl import name_problem
from compose.errors import Problem, RegistryError


def module_key(name: str) -> str:
    """The attribute name of a user's name. `:` is in no legal name, so that keys cannot collide.

    Neither with each other nor, since they begin with it, with what a module has itself (`train`, `double`).

    >>> module_key("my.sst-2")
    ':my:sst-2'
    """
    return ":" + name.replace(".", ":")


class NamedModules(nn.Module):
    """A mapping of users' names to modules, and of the same names to the specs that compilation reads.

    Args:
        what: what is kept, for messages: `adapter`, `fusion`, `head`.
    """

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what
        self.names: tuple[str, ...] = ()
        self.specs: dict[str, Any] = {}

    def add(self, name: str, module: nn.Module, spec: Any) -> None:
        """Keeps a module under a name that must be free."""
        self.require_free(name)
        self.add_module(module_key(name), module)
        self.specs = {**self.specs, name: spec}
        self.names = (*self.names, name)

    def replace(self, name: str, module: nn.Module, spec: Any) -> None:
        """Keeps another module under a name that is there."""
        self.require(name)
        self._modules[module_key(name)] = module
        self.specs = {**self.specs, name: spec}

    def remove(self, name: str) -> None:
        """Forgets a module."""
        self.require(name)
        self.specs = {other: spec for other, spec in self.specs.items() if other != name}
        self.names = tuple(other for other in self.names if other != name)
        del self._modules[module_key(name)]

    def require_free(self, name: str) -> None:
        """Raises a `RegistryError` if the name is taken or not legal."""
        problem = name_problem(name, self.what)
        if problem is not None:
            raise RegistryError(problem)
        if name in self.specs:
            raise RegistryError(
                f"the {self.what} '{name}' is there already",
                hint=f"another name, or model.delete_{self.what}({name!r}) first",
            )

    def require(self, *names: str) -> None:
        """Raises a `RegistryError` that tells every name of which there is nothing."""
        unknown = [name for name in names if name not in self.specs]
        if unknown:
            raise RegistryError(
                [Problem(f"there is no {self.what} '{name}'", got=str(name), legal=self.names) for name in unknown]
            )

    def __getitem__(self, name: str) -> Any:
        self.require(name)
        return self._modules[module_key(name)]

    def get(self, name: str) -> Any:
        """The module of that name, or None."""
        return self._modules.get(module_key(name)) if name in self.specs else None

    def __contains__(self, name: object) -> bool:
        return name in self.specs

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def items(self) -> Iterator[tuple[str, Any]]:
        """Names and modules, in the order in which they were added."""
        return ((name, self._modules[module_key(name)]) for name in self.names)
