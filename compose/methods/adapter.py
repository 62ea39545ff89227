"""An adapter: its config, and its parts at all the sites where it acts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

from torch import Tensor, nn

from compose.methods.config import Config
from compose.methods.modules import PARTS, SHARED, part_of
from compose.methods.part import Part
from compose.methods.sparse import Masks
from compose.methods.tensors import SHARED_PREFIX, SITE_MARK, canonical, key_of, load_strictly
from compose.methods.union.module import PartsInTurn
from compose.specs import BackboneSpec


class Adapter(nn.Module):
    """A named adapter over a backbone.

    Args:
        name: its name.
        config: its options.
        backbone: the backbone that it is made for.

    Raises:
        ConfigError: if the options do not fit the backbone.
    """

    def __init__(self, name: str, config: Config, backbone: BackboneSpec) -> None:
        super().__init__()
        self.name = name
        self.config = config
        self.spec = config.describe(name, backbone)
        made = [_Member(member, name, backbone) for member in config.members]
        self.shared = made[0].shared if len(made) == 1 else _by_number([member.shared for member in made])
        self.parts = nn.ModuleDict()
        for acting in self.spec.parts:
            key = key_of(acting.layer, acting.site)
            parts = [member.parts[key] for member in made if key in member.parts]
            self.parts[key] = parts[0] if len(parts) == 1 else PartsInTurn(parts)
        self.masks = Masks()

    def mask(self, masks: Mapping[str, Tensor]) -> None:
        """Keep some weights and no others: what a mask leaves out is zero from now on, and stays so in training.

        Args:
            masks: for weights by canonical name which elements are kept; of others all are. They replace earlier ones.

        Raises:
            FileError: if a mask does not fit.
        """
        self.masks.hold(masks, self.weights(), f"adapter {self.name!r}")

    def weights(self) -> dict[str, nn.Parameter]:
        """Its trained weights by canonical name; `tensors` has buffers too, and detached aliases."""
        owners = [(f"{key.replace(SITE_MARK, '.')}.", part) for key, part in self.parts.items()]
        if self.shared is not None:
            owners.append((SHARED_PREFIX, self.shared))
        return {f"{prefix}{name}": weight for prefix, owner in owners for name, weight in owner.named_parameters()}

    def part(self, layer: int, site: str) -> Part:
        """Its part at a (layer, site) of its spec.

        Raises:
            KeyError: if it does not act there.
        """
        return cast(Part, self.parts[key_of(layer, site)])

    def tensors(self) -> dict[str, Tensor]:
        """Its weights by canonical name, `<layer>.<site>.<weight>`: `3.attn.q.a`; shared ones as `shared.a`."""
        shared = {} if self.shared is None else self.shared.state_dict()
        return {
            **canonical(self.parts),
            **{f"{SHARED_PREFIX}{name}": tensor.detach() for name, tensor in shared.items()},
        }

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take weights by canonical name: all of them, or none.

        Raises:
            FileError: naming all that is missing, unexpected, misshapen or not finite.
        """
        load_strictly(self.tensors(), tensors, f"adapter {self.name!r}")


class _Member:
    """What one method brings to an adapter: parts by key, and what they share."""

    def __init__(self, config: Config, name: str, backbone: BackboneSpec) -> None:
        spec = config.describe(name, backbone)
        share = cast(Callable[..., nn.Module] | None, SHARED.get(config.method))
        self.shared = None if share is None else share(config, spec, backbone)
        self.parts: dict[str, Part] = {}
        for acting in spec.parts:
            kind = part_of(config.method, acting.site)
            given = () if self.shared is None or kind is not PARTS[config.method] else (self.shared,)
            build = cast(Callable[..., Part], kind)
            site = backbone.site(acting.layer, acting.site)
            self.parts[key_of(acting.layer, acting.site)] = build(config, acting, site, *given)


def _by_number(shared: list[nn.Module | None]) -> nn.Module | None:
    """What members share, each under its member's number; None if none shares anything."""
    found = {str(number): module for number, module in enumerate(shared) if module is not None}
    return nn.ModuleDict(found) if found else None
