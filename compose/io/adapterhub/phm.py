"""AdapterHub's names of the weights of Compacter's maps."""

from __future__ import annotations

from collections.abc import Collection

from compose.errors import FileError, Problem
from compose.methods.compacter.spec import CompacterConfig
from compose.methods.tensors import SHARED_PREFIX

_RULE = (("phm_rule", "rule.whole"), ("phm_rule_left", "rule.left"), ("phm_rule_right", "rule.right"))
OWN = (
    ("b", "bias"),
    ("W", "factors.whole"),
    ("W_left", "factors.left"),
    ("W_right", "factors.right"),
    *_RULE,
)
"""A map's own weights; they lie where a plain map's do."""

SHARED = (
    *((f"W_{which}", f"{which}.whole") for which in ("down", "up")),
    *((f"W_{which}_{side}", f"{which}.{side}") for which in ("down", "up") for side in ("left", "right")),
    *_RULE,
)
"""What all maps of an adapter have in common."""


def rows(norm: bool) -> tuple[tuple[str, str], ...]:
    """The names of the two maps' weights; `norm`: a LayerNorm stands before the first of them."""
    prefixes = ((f"adapter_down.{int(norm)}.", "down."), ("adapter_up.", "up."))
    return tuple((start + name, ours + own) for start, ours in prefixes for name, own in OWN)


def check_shared(config: CompacterConfig, names: Collection[str], where: str) -> None:
    """Refuses a file whose config declares shared weights of which it holds none, as old versions wrote them.

    Args:
        config: the config in the file.
        names: the canonical names of its weights.
        where: the file.

    Raises:
        FileError: naming the options.
    """
    wanted = {"shared_phm_rule": ("rule",), "shared_W_phm": ("down", "up")}
    problems = [
        Problem(
            f"its config says {option}=True, but it holds no such weights ('shared_parameters')",
            where=where,
            why="what its maps have in common was not saved, and nothing else in the file tells it",
            hint="the adapter has to be saved again where it was trained",
        )
        for option, parts in wanted.items()
        if getattr(config, option) and not any(name.startswith(f"{SHARED_PREFIX}{p}.") for p in parts for name in names)
    ]
    if problems:
        raise FileError(problems)
