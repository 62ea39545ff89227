"""Which member of a union each of its weights belongs to, as far as names say."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from compose.errors import ConfigError
from compose.methods.bitfit.spec import BitFitConfig
from compose.methods.config import Config
from compose.methods.linear.spec import LinearConfig
from compose.methods.tensors import SHARED_PREFIX
from compose.specs import EMBED, LAYER, STATES, SUBLAYERS

_SITE = r"(?:cross\.)?(?:attn|ffn)(?:\.(?:q|k|v|o|in|out|core|norm)(?=\.))?"
_NAME = re.compile(rf"(?P<layer>-?\d+)\.(?P<site>{_SITE}|\w+)\.(?P<rest>.+)")
_IN_TURN = re.compile(r"parts\.(\d+)\.")

_SITES: Mapping[str, Callable[[Any, str], bool]] = {
    "bottleneck": lambda config, site: site in (*SUBLAYERS, EMBED),
    "compacter": lambda config, site: site in (*SUBLAYERS, EMBED),
    "reft": lambda config, site: site == LAYER,
    "prefix_tuning": lambda config, site: site.endswith(".core"),
    "prompt_tuning": lambda config, site: site == EMBED,
    "layer_aggregation": lambda config, site: site == STATES,
}
"""By method: whether it acts at a site; those that are not here have a list of their sites."""


def member_of(config: Config, name: str) -> tuple[Config, str]:
    """The config of the member that a weight belongs to, and what the weight is called there.

    Args:
        config: the adapter's; of anything but a union, all weights are its own.
        name: the weight's canonical name.

    Raises:
        ConfigError: members of several methods may act there, and its name does not tell.
    """
    members = config.members
    if len(members) == 1:
        return members[0], name
    if name.startswith(SHARED_PREFIX):
        number, _, own = name.removeprefix(SHARED_PREFIX).partition(".")
        return members[int(number)], SHARED_PREFIX + own
    match = _NAME.fullmatch(name)
    found = [each for each in members if match and _acts(each, int(match["layer"]), match["site"])]
    turn = _IN_TURN.match(match["rest"]) if match else None
    if turn and int(turn[1]) < len(found):
        return found[int(turn[1])], name
    if len({each.method for each in found}) != 1:
        raise ConfigError(f"which member of the union the weight '{name}' belongs to is not known", where=config.method)
    return found[0], name


def _acts(config: Config, layer: int, site: str) -> bool:
    """Whether a member may act at a site."""
    if layer in getattr(config, "leave_out", ()):
        return False
    if isinstance(config, LinearConfig | BitFitConfig):
        return site in config.sites()
    return _SITES[config.method](config, site)
