"""The options of a fusion: what all kinds have in common, and those of attention."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from compose.methods.config import FLAG, PROBABILITY, Option, Options, option
from compose.specs import BackboneSpec, FusionSpec

OPTIONAL_PROBABILITY = Option(
    lambda value: value is None or PROBABILITY.accepts(value),
    "a number from 0 to below 1, or None",
    normal=lambda value: None if value is None else float(value),
)


@dataclass(frozen=True)
class FusionOptions(Options):
    """Base of the configs of fusions."""

    @abstractmethod
    def describe(self, name: str, sites: Iterable[tuple[int, str]], children: int = 0) -> FusionSpec:
        """What the compiler knows of a fusion of this config.

        Args:
            name: its own name.
            sites: the (layer, site) pairs at which it has weights.
            children: how many children the Fuse has that it was made for.
        """

    @abstractmethod
    def about(self) -> str:
        """What kind of fusion it is, in a few words."""

    @property
    def shares_layers(self) -> bool:
        """Whether the same weights serve in all layers."""
        return False

    def reach(self, sites: Iterable[tuple[int, str]], backbone: BackboneSpec) -> frozenset[tuple[int, str]]:
        """Where weights that are needed at some (layer, site) pairs serve, on a backbone."""
        return frozenset(sites)


@dataclass(frozen=True)
class FusionConfig(FusionOptions):
    """Options of AdapterFusion: attention over the children's increments; the names are AdapterHub's.

    After Pfeiffer et al., "AdapterFusion: Non-Destructive Task Composition for Transfer Learning", 2021,
    arXiv:2005.00247.

    Args:
        key, query, value: which of the three matrices it has; the identity stands for the others.
        query_before_ln: the query is the value before the LayerNorm, not after it.
        regularization: add the value matrix's distance from the identity to the loss.
        residual_before: add the residual to every candidate, rather than to the mixture.
        temperature: divide the scores by a temperature that falls from 50 to 1 in training.
        value_before_softmax: apply the value matrix to each candidate rather than to the mixture:
            an order of computation that changes no result, kept because files have it.
        value_initialized: start the value matrix at the identity (1e-6 off the diagonal).
        dropout_prob: on the scores; None: as the backbone's attention.

    Raises:
        ConfigError: with a problem for every option that is out of range.
    """

    method: ClassVar[str] = "adapter_fusion"

    key: bool = option(True, FLAG)
    query: bool = option(True, FLAG)
    value: bool = option(True, FLAG)
    query_before_ln: bool = option(False, FLAG)
    regularization: bool = option(True, FLAG)
    residual_before: bool = option(False, FLAG)
    temperature: bool = option(False, FLAG)
    value_before_softmax: bool = option(True, FLAG)
    value_initialized: bool = option(True, FLAG)
    dropout_prob: float | None = option(None, OPTIONAL_PROBABILITY)

    def describe(self, name: str, sites: Iterable[tuple[int, str]], children: int = 0) -> FusionSpec:
        """Its matrices; any number of children works. See `FusionOptions.describe`."""
        return FusionSpec(name, frozenset(sites), query=self.query, key=self.key, value=self.value)

    def about(self) -> str:
        """Which matrices it has."""
        matrices = [name for name in ("query", "key", "value") if getattr(self, name)]
        return f"fusion ({', '.join(matrices) or 'no matrices'})"
