"""How AdapterHub's keys are read and written for one backbone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from compose.errors import FileError
from compose.io.adapterhub.keys import EMBEDDED, KEYS, KINDS, LEGACY_PARTS, ArchitectureKeys, Kind, StackKeys
from compose.specs import BackboneSpec


class Place(NamedTuple):
    """Where a tensor belongs.

    Args:
        layer: index of the layer, through encoder, then decoder; -1 at the embeddings.
        sites: its site; several for a fused map, none for what all parts of an adapter share.
        kind: what it is a weight of.
        name: whose weight it is.
        parameter: its name there.
    """

    layer: int
    sites: tuple[str, ...]
    kind: Kind
    name: str
    parameter: str


class Home(NamedTuple):
    """Where weights lie.

    Args:
        path: what stands before their kind: the prefix and the module, up to a dot.
        kind: what they are weights of.
        sites: their site; several for a fused map, in the order of its rows.
    """

    path: str
    kind: Kind
    sites: tuple[str, ...]


_SHARED = re.compile(r"shared_parameters\.([^.]+)\.(.+)")


@dataclass(frozen=True)
class KeyTable:
    """The keys of one backbone: reads and writes them.

    Args:
        keys: the table of its architecture.
        backbone: its spec.
        modules: the names of its modules, which tell between several that could be meant; for writing.
    """

    keys: ArchitectureKeys
    backbone: BackboneSpec
    modules: frozenset[str] = frozenset()
    _first: Mapping[str, int] = field(init=False)

    def __post_init__(self) -> None:
        first: dict[str, int] = {}
        for layer in self.backbone.layers:
            first.setdefault(layer.stack, layer.index)
        object.__setattr__(self, "_first", first)

    @classmethod
    def of(cls, backbone: BackboneSpec, where: str, modules: frozenset[str] = frozenset()) -> KeyTable:
        """The table for a backbone.

        Raises:
            FileError: AdapterHub's keys for its architecture are not known; names `where`.
        """
        keys = KEYS.get(backbone.architecture)
        if keys is None:
            raise FileError(
                f"there are no folders of AdapterHub's for backbones of architecture '{backbone.architecture}'",
                where=where,
                got=backbone.architecture,
                legal=tuple(KEYS),
            )
        return cls(keys, backbone, modules)

    def read(self, key: str) -> Place | str:
        """Where the tensor of a key belongs.

        Returns:
            Its place, or in words why it has none.
        """
        for old, new in LEGACY_PARTS.items():
            key = key.replace(f"{old}.", f"{new}.")
        for prefix in self.keys.prefixes:
            # No prefix is the name of a module inside its backbone, except DistilBERT's `transformer`,
            # which is not one of its prefixes: none is stripped in error.
            key = key.removeprefix(prefix)
        shared = _SHARED.fullmatch(key)
        if shared:
            return Place(len(self.backbone.layers), (), "shared_parameters", shared[1], shared[2])
        for stack in self.keys.stacks:
            match = re.fullmatch(rf"{re.escape(stack.layers)}\.(\d{{1,6}})\.(.+)", key)
            if match:
                return self._read_layer(stack, int(match[1]), match[2])
        # An encoder-decoder has them in its encoder.
        inner = key.removeprefix("encoder.") if self.backbone.encoder_decoder else key
        for kind, start in EMBEDDED.items():
            if inner.startswith(start):
                layer, site = self.backbone.embed_key
                name, _, parameter = inner.removeprefix(start).partition(".")
                return Place(layer, (site,), kind, name, parameter)
        return f"there is no such module in a {self.backbone.architecture} backbone"

    def _read_layer(self, stack: StackKeys, number: int, rest: str) -> Place | str:
        count = sum(layer.stack == stack.stack for layer in self.backbone.layers)
        if number >= count:
            return f"the backbone's {stack.stack} has {count} layers, 0 to {count - 1}"
        layer = self._first[stack.stack] + number
        for kind in KINDS:
            for parent, site in stack.parents(kind).items():
                start = f"{parent}.{kind}."
                if rest.startswith(start):
                    name, _, parameter = rest.removeprefix(start).partition(".")
                    return Place(layer, (site,) if isinstance(site, str) else site, kind, name, parameter)
        return "no adapter, LoRA or fusion can be there"

    def home(self, layer: int, site: str, kinds: Iterable[Kind]) -> Home | None:
        """Where the weights of a site lie.

        Args:
            layer: index of the layer, through encoder, then decoder; -1 at the embeddings.
            site: name of the site.
            kinds: what of is looked for; the first that can lie there counts.

        Returns:
            None if nothing of these kinds can act at the site.
        """
        find = self._embedded if (layer, site) == self.backbone.embed_key else self._inside
        homes = (find(layer, site, kind) for kind in kinds)
        return next((home for home in homes if home is not None), None)

    @property
    def shared(self) -> Home:
        """Where the weights lie that all parts of an adapter share."""
        return Home(self.keys.prefixes[0], "shared_parameters", ("",))

    def _embedded(self, layer: int, site: str, kind: Kind) -> Home | None:
        if kind not in self.keys.embedded:
            return None
        stack = "encoder." if self.backbone.encoder_decoder else ""
        return Home(f"{self.keys.prefixes[0]}{stack}{EMBEDDED[kind].removesuffix(f'{kind}.')}", kind, (site,))

    def _inside(self, layer: int, site: str, kind: Kind) -> Home | None:
        if kind not in KINDS:
            return None
        stack = next(each for each in self.keys.stacks if each.stack == self.backbone.layers[layer].stack)
        layer_path = f"{stack.layers}.{layer - self._first[stack.stack]}"
        found: list[tuple[str, tuple[str, ...]]] = []
        for parent, named in stack.parents(kind).items():
            sites = (named,) if isinstance(named, str) else named
            if site in sites:
                found.append((f"{layer_path}.{parent}", sites))
        there = [row for row in found if row[0] in self.modules]
        return next((Home(f"{self.keys.prefixes[0]}{path}.", kind, sites) for path, sites in there or found), None)
