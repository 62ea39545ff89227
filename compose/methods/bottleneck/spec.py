"""The options of bottleneck adapters, and where they make one act."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from compose.errors import ConfigError, Problem
from compose.methods.config import (
    FLAG,
    LAYERS,
    OPTIONAL_COUNT,
    PROBABILITY,
    SEED,
    Config,
    Option,
    acts_nowhere,
    choice,
    is_count,
    is_number,
    option,
    unknown_layers,
)
from compose.methods.invertible import spec as invertible
from compose.specs import ActingSpec, AdapterSpec, BackboneSpec, SiteSpec

# The activations that transformers knows by name; a test compares the two lists.
NON_LINEARITIES = (
    "gelu", "gelu_10", "gelu_accurate", "gelu_fast", "gelu_new", "gelu_python", "gelu_python_tanh",
    "gelu_pytorch_tanh", "hardswish", "laplace", "leaky_relu", "leakyrelu", "linear", "mish", "prelu",
    "quick_gelu", "relu", "relu2", "relu6", "sigmoid", "silu", "swish", "tanh", "xielu",
)  # fmt: skip
LEARNED_NON_LINEARITIES = {"prelu": 1, "xielu": 2}
"""Activations that have weights of their own, and how many."""

SITES = (("mh_adapter", "attn"), ("cross_adapter", "cross.attn"), ("output_adapter", "ffn"))
"""Which option puts an adapter at which site, in the order in which a layer runs them."""

PLACING = frozenset(
    {
        *dict(SITES),
        "reduction_factor",
        "bottleneck_size",
        "bottleneck_sizes",
        "init_weights",
        "init_weights_seed",
        "leave_out",
        "inv_adapter",
        "inv_adapter_reduction_factor",
    }
)
"""Options of where, how wide and from what start: parts that differ in these alone compute alike."""


def _is_factor(value: Any) -> bool:
    return is_number(value) and value > 0


def _is_layer(key: Any) -> bool:
    return key == "default" or (isinstance(key, str) and key.isdecimal())


def _accepts_factors(value: Any) -> bool:
    if not isinstance(value, Mapping | tuple):
        return _is_factor(value)
    pairs = list(value.items()) if isinstance(value, Mapping) else list(value)
    if not all(isinstance(pair, tuple) and len(pair) == 2 for pair in pairs):
        return False
    keys = [str(key) for key, _ in pairs if not isinstance(key, bool)]
    return (
        len(set(keys)) == len(pairs) > 0
        and all(_is_layer(key) for key in keys)
        and all(_is_factor(factor) for _, factor in pairs)
    )


def _normal_factors(value: Any) -> Any:
    if not isinstance(value, Mapping | tuple):
        return float(value)
    pairs = value.items() if isinstance(value, Mapping) else value
    return tuple((str(key), float(factor)) for key, factor in pairs)


_SITE_KEY = re.compile(rf"(\d{{1,6}})\.({'|'.join(re.escape(site) for _, site in SITES)})")


def _accepts_sizes(value: Any) -> bool:
    pairs = value.items() if isinstance(value, Mapping) else value if isinstance(value, tuple) else [None]
    return all(
        isinstance(pair, tuple)
        and len(pair) == 2
        and isinstance(pair[0], str)
        and _SITE_KEY.fullmatch(pair[0])
        and is_count(pair[1], 1)
        for pair in pairs
    )


SIZES = Option(
    _accepts_sizes,
    'a mapping from layers and sites ("3.ffn") to whole numbers of at least 1',
    normal=lambda value: tuple(sorted(dict(value).items())),
    plain=dict,
)
FACTOR = Option(
    _accepts_factors,
    'a number above 0, or a mapping from layer numbers (and "default") to such numbers',
    normal=_normal_factors,
    plain=lambda value: dict(value) if isinstance(value, tuple) else value,
)
POSITIVE = Option(_is_factor, "a number above 0", normal=float)
INVERTIBLE = Option(
    lambda value: value is None or value in invertible.KINDS, "'nice', 'glow' or None", invertible.KINDS
)
SCALING = Option(
    lambda value: value in ("learned", "channel") if isinstance(value, str) else is_number(value),
    "a number, 'learned' or 'channel'",
    ("learned", "channel"),
    normal=lambda value: value if isinstance(value, str) else float(value),
)
NON_LINEARITY = Option(
    lambda value: isinstance(value, str) and value.lower() in NON_LINEARITIES,
    "the name of an activation",
    NON_LINEARITIES,
    normal=str.lower,
)
RESIDUAL_BEFORE_LN = Option(
    lambda value: isinstance(value, bool) or value == "post_add", "True, False or 'post_add'", ("post_add",)
)


@dataclass(frozen=True)
class BottleneckConfig(Config):
    """Options of a bottleneck adapter; the names are AdapterHub's.

    Args:
        mh_adapter: acts after self-attention.
        output_adapter: acts after the feed-forward block.
        cross_adapter: acts after the decoder's cross-attention.
        reduction_factor: width over bottleneck width (below 1 it widens), or a mapping from layer
            numbers to such factors, with `"default"` for the layers that it leaves out.
        bottleneck_size: the bottleneck's width itself; overrides the factor.
        bottleneck_sizes: the width at single sites, by layer and site (`"3.ffn"`): what pruned neurons leave.
        non_linearity: an activation by transformers' name for it.
        original_ln_before: read LayerNorm(y + x) rather than y; y + x in pre-norm layers.
        original_ln_after: the backbone adds x and normalises after the adapter.
        ln_before: own LayerNorm on what is read.
        ln_after: own LayerNorm on the result.
        init_weights: `bert`, `mam_adapter` (starts as no change) or `houlsby`.
        init_weights_seed: seed of every part's weights; the global generator otherwise.
        is_parallel: read x rather than y, and add the result to y.
        scaling: of the up-projection: a number, `learned` (one weight) or `channel` (one a channel).
        use_gating: multiply by a learned gate, averaged over the tokens.
        residual: add a residual at all; without, the result is the up-projection's alone.
        residual_before_ln: what the residual is where `original_ln_before` holds: y (True), y + x
            (`post_add`) or what is read (False).
        adapter_residual_before_ln: add the residual before the own LayerNorm, not after it.
        leave_out: layers without the adapter.
        dropout: on the up-projection.
        stochastic_depth: probability that a row skips the increment in training.
        inv_adapter: an invertible part at the embeddings: `nice` or `glow`; see `InvertiblePart`.
        inv_adapter_reduction_factor: the width that its networks read (half the states') over their hidden width.

    Raises:
        ConfigError: with a problem for every option that is out of range.
    """

    method: ClassVar[str] = "bottleneck"
    alternatives = (("reduction_factor", "bottleneck_size"),)

    mh_adapter: bool = option(False, FLAG)
    output_adapter: bool = option(True, FLAG)
    cross_adapter: bool = option(False, FLAG)
    reduction_factor: float | tuple[tuple[str, float], ...] = option(16.0, FACTOR)
    bottleneck_size: int | None = option(None, OPTIONAL_COUNT)
    bottleneck_sizes: tuple[tuple[str, int], ...] = option((), SIZES)
    non_linearity: str = option("relu", NON_LINEARITY)
    original_ln_before: bool = option(False, FLAG)
    original_ln_after: bool = option(True, FLAG)
    ln_before: bool = option(False, FLAG)
    ln_after: bool = option(False, FLAG)
    init_weights: str = option("bert", choice("bert", "mam_adapter", "houlsby"))
    init_weights_seed: int | None = option(None, SEED)
    is_parallel: bool = option(False, FLAG)
    scaling: float | str = option(1.0, SCALING)
    use_gating: bool = option(False, FLAG)
    residual: bool = option(True, FLAG)
    residual_before_ln: bool | str = option(True, RESIDUAL_BEFORE_LN)
    adapter_residual_before_ln: bool = option(False, FLAG)
    leave_out: tuple[int, ...] = option((), LAYERS)
    dropout: float = option(0.0, PROBABILITY)
    stochastic_depth: float = option(0.0, PROBABILITY)
    inv_adapter: str | None = option(None, INVERTIBLE)
    inv_adapter_reduction_factor: float = option(2.0, POSITIVE)

    @classmethod
    def conflicts(cls, values: Mapping[str, Any]) -> list[Problem]:
        """No site at all, or a parallel adapter told to have no residual."""
        found = []
        if not any(values[name] for name, _ in SITES) and values["inv_adapter"] is None:
            found.append(
                Problem(
                    "mh_adapter, output_adapter and cross_adapter are all False: it would act nowhere",
                    where=cls.method,
                    hint="output_adapter=True",
                )
            )
        if values["is_parallel"] and not values["residual"]:
            found.append(
                Problem(
                    "residual=False has no meaning with is_parallel=True",
                    where=cls.method,
                    why="a parallel adapter has no residual of its own: its result is added to the block's",
                )
            )
        return found

    def size(self, width: int, layer: int, site: str = "") -> int:
        """The bottleneck's width in a layer, or at one of its sites, for states of a width.

        Raises:
            ConfigError: if the mapping of factors lacks the layer and has no default.
        """
        own = dict(self.bottleneck_sizes).get(f"{layer}.{site}", self.bottleneck_size)
        if own is not None:
            return own
        factor = self.reduction_factor
        if isinstance(factor, tuple):
            factors = dict(factor)
            if str(layer) not in factors and "default" not in factors:
                raise ConfigError(
                    f"reduction_factor has no value for layer {layer}",
                    where=self.method,
                    hint='a "default" beside the layers',
                )
            factor = factors[str(layer) if str(layer) in factors else "default"]
        return max(1, int(width // factor))

    def describe(self, name: str, backbone: BackboneSpec) -> AdapterSpec:
        """Where it acts on a backbone, and what it costs there; see `Config.describe`."""
        count = len(backbone.layers)
        problems = unknown_layers(self.method, "leave_out", self.leave_out, count)
        if isinstance(self.reduction_factor, tuple) and self.bottleneck_size is None:
            named = tuple(int(key) for key, _ in self.reduction_factor if key != "default")
            problems += unknown_layers(self.method, "reduction_factor", named, count)
        if problems:
            raise ConfigError(problems)
        parts = tuple(
            self.acting(name, layer.index, layer.sites[site])
            for layer in backbone.layers
            if layer.index not in self.leave_out
            for flag, site in SITES
            if getattr(self, flag) and site in layer.sites
        )
        if self.inv_adapter is not None:
            learned = LEARNED_NON_LINEARITIES.get(self.non_linearity, 0)
            factor = self.inv_adapter_reduction_factor
            embedded = invertible.acting(name, self.inv_adapter, factor, self.non_linearity, learned, backbone)
            parts = (embedded, *parts)
        if not parts:
            raise acts_nowhere(self.method, name, backbone, "output_adapter=True, or fewer layers in leave_out")
        acting = tuple(f"{part.layer}.{part.site}" for part in parts)
        problems = [
            Problem(f"bottleneck_sizes names {key}, where it does not act", where=self.method, got=key, legal=acting)
            for key, _ in self.bottleneck_sizes
            if key not in acting
        ]
        if problems:
            raise ConfigError(problems)
        return AdapterSpec(name, self.method, parts, shared_parameters=self.shared_parameters(parts, backbone))

    def acting(self, name: str, layer: int, site: SiteSpec) -> ActingSpec:
        """Its part at a site."""
        width = site.width_out
        rank = self.size(width, layer, site.name)
        learned = LEARNED_NON_LINEARITIES.get(self.non_linearity, 0)
        parameters = self.map_parameters(width, rank) + self.map_parameters(rank, width) + learned
        parameters += {"learned": 1, "channel": width, "fixed": 0}[self.scaling_kind]
        parameters += 2 * width * (self.ln_before + self.ln_after) + (width + 1) * self.use_gating
        return ActingSpec(
            layer=layer,
            site=site.name,
            rank=rank,
            parameters=parameters,
            multiplies=2 * width * rank + width * self.use_gating,
            increment_multiplies=2 * width * rank,
            biased=self.has_map_bias,
            # an activation with weights of its own cannot be grouped with another adapter's
            shape=(self.method, width, rank, *self.structure(), self.scaling_kind, name if learned else ""),
            closing="backbone" if self.original_ln_after else "adapter",
        )

    @property
    def has_map_bias(self) -> bool:
        """Whether down- and up-projection have biases."""
        return True

    def map_parameters(self, width_in: int, width_out: int) -> int:
        """The weights of one of its two maps."""
        return width_in * width_out + width_out

    def shared_parameters(self, parts: tuple[ActingSpec, ...], backbone: BackboneSpec) -> int:
        """The weights that its parts have in common."""
        return 0

    def structure(self) -> tuple[object, ...]:
        """What parts agree in that compute alike, their sizes and kind of scaling aside."""
        return self.options_but(set())

    def options_but(self, names: set[str]) -> tuple[object, ...]:
        """The options, but for some, those that place it and the scaling."""
        left = (name for name in self.options() if name not in PLACING | names and name != "scaling")
        return tuple(getattr(self, name) for name in left)

    @property
    def scaling_kind(self) -> str:
        """`learned`, `channel` or `fixed`."""
        return self.scaling if isinstance(self.scaling, str) else "fixed"
