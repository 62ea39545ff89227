"""AdapterHub's unions: the weights of all members lie in one file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial

from torch import Tensor

from compose.io.adapterhub.names import names_of
from compose.io.adapterhub.table import KeyTable
from compose.methods.prefix.spec import PrefixConfig
from compose.methods.tensors import SHARED_PREFIX
from compose.methods.union.spec import UnionConfig
from compose.specs import AdapterSpec, BackboneSpec

_PREFIXES = "prefix_tuning"
"""The part of a key that tells a prefix's weights."""


class Members:
    """A union's members, each with its place among them.

    Args:
        config: the union.
        backbone: the backbone that it is for.
    """

    def __init__(self, config: UnionConfig, backbone: BackboneSpec) -> None:
        self.configs = config.members
        self.specs = tuple(member.describe("member", backbone) for member in config.members)

    def divided(self, tensors: Mapping[str, Tensor], table: KeyTable) -> list[dict[str, Tensor]]:
        """The tensors of each member; one that is nobody's goes to the first, which then says so."""
        found: list[dict[str, Tensor]] = [{} for _ in self.configs]
        for key, tensor in tensors.items():
            owners = [number for number in range(len(found)) if self._owns(number, key, table)]
            found[owners[0] if owners else 0][key] = tensor
        return found

    def renamed(self, number: int, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A member's tensors by the names that they have in the union."""
        return {self._name(number, name): tensor for name, tensor in tensors.items()}

    def own(self, number: int, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Of a union's tensors those of a member, by the names that it has by itself."""
        names = {self._name(number, name): name for name in map(partial(self._alone, number), tensors) if name}
        return {names[name]: tensor for name, tensor in tensors.items() if name in names}

    def _alone(self, number: int, name: str) -> str | None:
        """What a weight would be called if it were the member's, by itself; None if it cannot be its."""
        shared = f"{SHARED_PREFIX}{number}."
        if name.startswith(SHARED_PREFIX):
            return name.replace(shared, SHARED_PREFIX, 1) if name.startswith(shared) else None
        key = max((key for spec in self.specs for key in spec.by_site if _is_at(name, key)), key=_length)
        if key not in self.specs[number].by_site:
            return None
        start = f"{key[0]}.{key[1]}."
        return start + re.sub(r"^parts\.\d+\.", "", name.removeprefix(start))

    def _owns(self, number: int, key: str, table: KeyTable) -> bool:
        config, spec = self.configs[number], self.specs[number]
        if isinstance(config, PrefixConfig) or _PREFIXES in key.split("."):
            return isinstance(config, PrefixConfig) and _PREFIXES in key.split(".")
        place = table.read(key)
        if isinstance(place, str) or place.kind not in names_of(config):
            return False
        return not place.sites or any((place.layer, site) in spec.by_site for site in place.sites)

    def _name(self, number: int, name: str) -> str:
        if name.startswith(SHARED_PREFIX):
            return f"{SHARED_PREFIX}{number}.{name.removeprefix(SHARED_PREFIX)}"
        layer, site = _site_of(self.specs[number], name)
        acting = [other for other, spec in enumerate(self.specs) if (layer, site) in spec.by_site]
        start = f"{layer}.{site}."
        return name if len(acting) == 1 else f"{start}parts.{acting.index(number)}.{name.removeprefix(start)}"


def _is_at(name: str, key: tuple[int, str]) -> bool:
    return name.startswith(f"{key[0]}.{key[1]}.")


def _length(key: tuple[int, str]) -> int:
    return len(key[1])


def _site_of(spec: AdapterSpec, name: str) -> tuple[int, str]:
    """The (layer, site) of a weight; sites' names may begin with each other's."""
    return max((key for key in spec.by_site if _is_at(name, key)), key=_length)
