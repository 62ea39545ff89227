"""AdapterHub's names of an adapter's weights and ours: one table per method, read in both directions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from compose.io.adapterhub import phm
from compose.io.adapterhub.keys import Kind
from compose.io.adapterhub.reft import reft_rows
from compose.methods.bottleneck.spec import BottleneckConfig
from compose.methods.compacter.spec import CompacterConfig
from compose.methods.config import Options

Rows = tuple[tuple[str, str], ...]
"""Their name and ours. At the end of both `*` stands for `weight` or `bias`, and `**` for any rest."""

Names = Mapping[Kind, Rows]
"""The kinds of weights that a config has, by the part of a key before the adapter's name; and the names after it."""

_MAPS: Rows = (("adapter_up.*", "up.*"),)
_BOTTLENECK: Rows = (
    ("adapter_norm_before.*", "norm_before.*"),
    ("adapter_norm_after.*", "norm_after.*"),
    ("non_linearity.f.**", "activation.**"),
    ("scaling", "scaling"),
    ("gate.*", "gate.*"),
)
# `adapter_down` is a sequence: the LayerNorm if there is one, the linear map, the activation.
_WITHOUT_NORM: Rows = (("adapter_down.1.f.**", "activation.**"),)
_WITH_NORM: Rows = (("adapter_down.0.*", "norm_before.*"), ("adapter_down.2.f.**", "activation.**"))

# The first of a coupling block's networks reads the second half of the states, and changes the first.
_NETWORKS = {"nice": (("F", "first"), ("G", "second")), "glow": (("s2", "first"), ("s1", "second"))}
_NETWORK: Rows = (("0.*", "down.*"), ("1.f.**", "activation.**"), ("2.*", "up.*"))

_GATE: Rows = (("gate.*", "gate.*"),)
_LORA: Rows = (("lora_A", "a"), ("lora_B", "b"), *_GATE)
_VERA: Rows = (("vera_D", "d"), ("vera_B", "b"), *_GATE)
_VERA_SHARED: Rows = (("lora_A", "a"), ("lora_B", "b"))
_MTL_LORA: Rows = (*_LORA, ("weights", "weights"), ("task_specific.values", "task"))
_FUSION: Rows = (("query.*", "query.*"), ("key.*", "key.*"), ("value.weight", "value.weight"))

COLUMNS: Mapping[Kind, frozenset[str]] = {"loras": frozenset({"scaling", "magnitude"})}
"""What is a vector here, and there a matrix of one column."""

FUSED = frozenset({"lora", "ia3"})
"""Methods that AdapterHub can compute on a fused map."""


def _bottleneck(config: BottleneckConfig) -> Names:
    place = f"adapter_down.{int(config.ln_before)}"
    maps: Rows = (*_MAPS, (f"{place}.*", "down.*"))
    return _with_maps(config, maps)


def _compacter(config: CompacterConfig) -> Names:
    return {**_with_maps(config, phm.rows(config.ln_before)), "shared_parameters": phm.SHARED}


def _with_maps(config: BottleneckConfig, maps: Rows) -> Names:
    rows: Rows = (*(_WITH_NORM if config.ln_before else _WITHOUT_NORM), *maps, *_BOTTLENECK)
    networks = _NETWORKS.get(config.inv_adapter or "", ())
    if not networks:
        return {"adapters": rows}
    return {"adapters": rows, "invertible_adapters": tuple(row for each in networks for row in _under(*each, _NETWORK))}


def _under(theirs: str, ours: str, rows: Rows) -> Rows:
    return tuple((f"{theirs}.{name}", f"{ours}.{own}") for name, own in rows)


def _with_magnitude(rows: Rows) -> Rows:
    return (("m.weight", "magnitude"), *((theirs, f"update.{ours}") for theirs, ours in rows))


GRAMMARS: Mapping[str, Callable[[Any], Names]] = {
    "bottleneck": _bottleneck,
    "compacter": _compacter,
    "lora": lambda _: {"loras": _LORA},
    "ia3": lambda _: {"loras": (("lora_B", "scaling"), *_GATE)},
    "dora": lambda _: {"loras": _with_magnitude(_LORA)},
    "vera": lambda _: {"loras": _VERA, "shared_parameters": _VERA_SHARED},
    "dvora": lambda _: {"loras": _with_magnitude(_VERA), "shared_parameters": _VERA_SHARED},
    "mtl_lora": lambda _: {"loras": _MTL_LORA},
    "reft": lambda config: {"refts": reft_rows(config)},
    "prompt_tuning": lambda _: {"prompt_tunings": (("prompt_embedding.weight", "weight"),)},
    "adapter_fusion": lambda _: {"adapter_fusion_layer": _FUSION},
}
"""By our method, for a config. Those of prefixes are in `prefixes.py`: they do not lie where the adapter acts."""


def names_of(config: Options) -> Names:
    """The names of the weights of an adapter's or a fusion's config."""
    return GRAMMARS[config.method](config)


def ours(theirs: str, rows: Rows) -> str | None:
    """Our name for theirs, None if there is no such weight.

    >>> ours("adapter_up.weight", _MAPS), ours("colour", _LORA)
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
