"""AdapterHub's names of an adapter's weights and ours: one table per method, read in both directions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from compose.io.adapterhub.keys import Kind
from compose.methods.bottleneck.spec import BottleneckConfig
from compose.methods.config import Options

Rows = tuple[tuple[str, str], ...]
"""Their name and ours. At the end of both `*` stands for `weight` or `bias`, and `**` for any rest."""

_BOTTLENECK: Rows = (
    ("adapter_norm_before.*", "norm_before.*"),
    ("adapter_up.*", "up.*"),
    ("adapter_norm_after.*", "norm_after.*"),
    ("non_linearity.f.**", "activation.**"),
    ("scaling", "scaling"),
    ("gate.*", "gate.*"),
)
# `adapter_down` is a sequence: the LayerNorm if there is one, the linear map, the activation.
_WITHOUT_NORM: Rows = (("adapter_down.0.*", "down.*"), ("adapter_down.1.f.**", "activation.**"))
_WITH_NORM: Rows = (
    ("adapter_down.0.*", "norm_before.*"),
    ("adapter_down.1.*", "down.*"),
    ("adapter_down.2.f.**", "activation.**"),
)
_LORA: Rows = (("lora_A", "a"), ("lora_B", "b"), ("gate.*", "gate.*"))
_FUSION: Rows = (("query.*", "query.*"), ("key.*", "key.*"), ("value.*", "value.*"))


class Grammar(NamedTuple):
    """How the weights of a method are called.

    Args:
        kind: the part of a key that stands before the adapter's name.
        rows: the names after it, for a config.
    """

    kind: Kind
    rows: Callable[[Any], Rows]


def _bottleneck(config: BottleneckConfig) -> Rows:
    return (*(_WITH_NORM if config.ln_before else _WITHOUT_NORM), *_BOTTLENECK)


GRAMMARS: Mapping[str, Grammar] = {
    "bottleneck": Grammar("adapters", _bottleneck),
    "lora": Grammar("loras", lambda _: _LORA),
    "fusion": Grammar("adapter_fusion_layer", lambda _: _FUSION),
}
"""By our method."""


def grammar_of(config: Options) -> tuple[Kind, Rows]:
    """The kind and the rows of an adapter's or a fusion's config."""
    grammar = GRAMMARS[config.method]
    return grammar.kind, grammar.rows(config)


def ours(theirs: str, rows: Rows) -> str | None:
    """Our name for theirs, None if there is no such weight.

    >>> ours("adapter_up.weight", _BOTTLENECK), ours("colour", _LORA)
    ('up.weight', None)
    """
    names = (_renamed(theirs, source, target) for source, target in rows)
    return next((name for name in names if name is not None), None)


def theirs(ours: str, rows: Rows) -> tuple[str, ...]:
    """All their names for ours: a weight may be stored twice.

    >>> theirs("norm_before.bias", (*_WITH_NORM, *_BOTTLENECK))
    ('adapter_down.0.bias', 'adapter_norm_before.bias')
    """
    names = (_renamed(ours, target, source) for source, target in rows)
    return tuple(name for name in names if name is not None)


def _renamed(name: str, source: str, target: str) -> str | None:
    if not source.endswith("*"):
        return target if name == source else None
    start = source.rstrip("*")
    rest = name.removeprefix(start)
    fits = name.startswith(start) and (rest in ("weight", "bias") or (rest and source.endswith("**")))
    return target.rstrip("*") + rest if fits else None
