"""The options of a union of methods, and where it acts."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any, ClassVar

from compose.errors import ConfigError, Problem
from compose.methods.config import Config, Option, option
from compose.specs import ActingSpec, AdapterSpec, BackboneSpec

IN_TURN = frozenset({"linear", "sublayer", "norm"})
"""The kinds of sites at which several members can act, one on the other's result."""


def _are_members(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) > 0
        and all(isinstance(one, Config) and not isinstance(one, UnionConfig) for one in value)
    )


MEMBERS = Option(
    _are_members,
    "a list of configs, none of them a union's",
    normal=tuple,
    plain=lambda value: [{"method": config.method, **config.to_dict()} for config in value],
)


@dataclass(frozen=True)
class UnionConfig(Config):
    """Options of a union: all its members act, under one name.

    `mam` (Mix-and-Match; He et al., "Towards a Unified View of Parameter-Efficient Transfer Learning", ICLR 2022)
    and `unipelt` (Mao et al., "UniPELT: A Unified Framework for Parameter-Efficient Language Model Tuning", ACL
    2022) are unions.

    Args:
        configs: the members; where several act at one site, each acts on what those before it gave, as in a Stack.

    Raises:
        ConfigError: if there are none, or one is a union itself.
    """

    method: ClassVar[str] = "union"

    configs: tuple[Config, ...] = option((), MEMBERS)

    @property
    def members(self) -> tuple[Config, ...]:
        """The configs of its members."""
        return self.configs

    def describe(self, name: str, backbone: BackboneSpec) -> AdapterSpec:
        """The parts of all members; see `Config.describe`."""
        specs = [config.describe(name, backbone) for config in self.configs]
        by_site: dict[tuple[int, str], list[ActingSpec]] = defaultdict(list)
        for spec in specs:
            for part in spec.parts:
                by_site[part.layer, part.site].append(part)
        self._check(name, by_site, backbone)
        several = any(len(parts) > 1 for parts in by_site.values())
        return AdapterSpec(
            name,
            self.method,
            tuple(parts[0] if len(parts) == 1 else self._together(name, parts) for parts in by_site.values()),
            fusible=not several and all(spec.fusible for spec in specs),
            shared_parameters=sum(spec.shared_parameters for spec in specs),
        )

    def _check(self, name: str, by_site: dict[tuple[int, str], list[ActingSpec]], backbone: BackboneSpec) -> None:
        """Refuses members that cannot act one on the other's result."""
        clashes = dict.fromkeys(
            site
            for (layer, site), parts in by_site.items()
            if len(parts) > 1 and backbone.site(layer, site).kind not in IN_TURN
        )
        if clashes:
            raise ConfigError(
                [
                    Problem(
                        f"two members of the union {name!r} act at the site '{site}'",
                        where=self.method,
                        hint="an adapter for each, and Stack(...)",
                    )
                    for site in clashes
                ]
            )

    def _together(self, name: str, parts: list[ActingSpec]) -> ActingSpec:
        """What the compiler knows of parts that act one on the other's result."""
        last = parts[-1]
        return ActingSpec(
            layer=last.layer,
            site=last.site,
            rank=sum(part.rank for part in parts),
            parameters=sum(part.parameters for part in parts),
            multiplies=sum(part.multiplies for part in parts),
            increment_multiplies=0,
            shape=(self.method, name, last.layer, last.site),  # groups are made of equal shapes: it stands alone
            closing=last.closing,
            row_multiplies=sum(part.row_multiplies for part in parts),
            pair_multiplies=sum(part.pair_multiplies for part in parts),
            call_multiplies=sum(part.call_multiplies for part in parts),
            factored=False,
            reads_weights=any(part.reads_weights for part in parts),
        )
