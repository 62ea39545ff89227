"""The options of prefix tuning, and where they make an adapter act."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from compose.errors import ConfigError
from compose.methods.bottleneck.spec import LEARNED_NON_LINEARITIES, NON_LINEARITY
from compose.methods.config import (
    COUNT,
    FLAG,
    LAYERS,
    PROBABILITY,
    SEED,
    Config,
    acts_nowhere,
    option,
    unknown_layers,
)
from compose.specs import ActingSpec, AdapterSpec, BackboneSpec, LayerSpec, SubLayerSpec

PLACES = ("encoder", "self", "cross")
"""The attentions that have a reparametrisation in common: an encoder's before a decoder, its own, cross-attention."""

LEARNED = ("bert", "roberta", "xlm-roberta", "gpt2")
"""Architectures whose embeddings add a learned position to each token: a text that moves is embedded again."""

RELATIVE = ("t5",)
"""Those whose attentions see how far tokens are from each other."""


def place_of(backbone: BackboneSpec, layer: int, site: str) -> str:
    """Which of `PLACES` an attention belongs to."""
    if site.startswith("cross."):
        return "cross"
    return "encoder" if backbone.encoder_decoder and backbone.layers[layer].stack == "encoder" else "self"


@dataclass(frozen=True)
class PrefixConfig(Config):
    """Options of prefix tuning (Li and Liang, 2021, arXiv:2101.00190); the names are AdapterHub's.

    Args:
        encoder_prefix: acts in the encoder of an encoder-decoder too; an encoder alone always has its prefixes.
        cross_prefix: acts in the decoder's cross-attention too.
        leave_out: layers without the prefix.
        flat: the keys and values are weights themselves; else an MLP makes them from an embedding.
        prefix_length: number of virtual tokens.
        bottleneck_size: width of the MLP's hidden layer.
        non_linearity: of the MLP: an activation by transformers' name for it.
        counted: the virtual tokens take up positions, and the text's begin after them, as in PEFT; else they take none
            (in T5 the first ones among the keys, while queries keep theirs), as in AdapterHub.
        dropout: on the keys and values.
        use_gating: multiply them by a learned gate, averaged over the tokens (UniPELT).
        shared_gating: one gate for keys and values, not one for each.
        init_weights_seed: seed of every part's weights; the global generator otherwise.

    Raises:
        ConfigError: with a problem for every option that is out of range.
    """

    method: ClassVar[str] = "prefix_tuning"

    encoder_prefix: bool = option(True, FLAG)
    cross_prefix: bool = option(True, FLAG)
    leave_out: tuple[int, ...] = option((), LAYERS)
    flat: bool = option(False, FLAG)
    prefix_length: int = option(30, COUNT)
    counted: bool = option(False, FLAG)
    bottleneck_size: int = option(512, COUNT)
    non_linearity: str = option("tanh", NON_LINEARITY)
    dropout: float = option(0.0, PROBABILITY)
    use_gating: bool = option(False, FLAG)
    shared_gating: bool = option(True, FLAG)
    init_weights_seed: int | None = option(None, SEED)

    @property
    def gates(self) -> int:
        """How many gates an attention has."""
        return 0 if not self.use_gating else 1 if self.shared_gating else 2

    def describe(self, name: str, backbone: BackboneSpec) -> AdapterSpec:
        """Its parts, one an attention; see `Config.describe`."""
        problems = unknown_layers(self.method, "leave_out", self.leave_out, len(backbone.layers))
        if problems:
            raise ConfigError(problems)
        wanted = {"encoder": self.encoder_prefix, "cross": self.cross_prefix, "self": True}
        parts: list[ActingSpec] = []
        places: set[str] = set()
        for layer in backbone.layers:
            for sublayer in layer.sublayers if layer.index not in self.leave_out else ():
                if sublayer.core is None:
                    continue
                place = place_of(backbone, layer.index, sublayer.core.name)
                if wanted[place]:
                    parts.append(self._acting(name, backbone, layer, sublayer, place not in places))
                    places.add(place)
        if not parts:
            hint = "fewer layers in leave_out, encoder_prefix=True or cross_prefix=True"
            raise acts_nowhere(self.method, name, backbone, hint)
        if self.counted:
            parts += self._moving(name, backbone)
        shared = 0 if self.flat else len(places) * self.shared_weights(backbone.hidden_size)
        return AdapterSpec(name, self.method, tuple(parts), fusible=False, shared_parameters=shared)

    def _moving(self, name: str, backbone: BackboneSpec) -> list[ActingSpec]:
        """What moves the text's positions, where the embeddings have any.

        Raises:
            ConfigError: it is not known how the backbone's positions move.
        """
        if backbone.architecture not in (*LEARNED, *RELATIVE):
            raise ConfigError(
                f"counted=True has no meaning on a backbone of architecture '{backbone.architecture}'",
                where=self.method,
                got=backbone.architecture,
                legal=(*LEARNED, *RELATIVE),
                why="its virtual tokens have no positions that a text could come after",
                hint="counted=False",
            )
        if backbone.architecture in RELATIVE:
            return []
        layer, site = backbone.embed_key
        shape = (self.method, name)
        return [ActingSpec(layer, site, self.prefix_length, 0, 0, 0, shape=shape, moves_text=True)]

    def shared_weights(self, width: int) -> int:
        """The weights of the embedding and the MLP's hidden layer, which the attentions of a place have in common."""
        learned = LEARNED_NON_LINEARITIES.get(self.non_linearity, 0)
        return self.prefix_length * width + (width + 1) * self.bottleneck_size + learned

    def _acting(
        self, name: str, backbone: BackboneSpec, layer: LayerSpec, sublayer: SubLayerSpec, first: bool
    ) -> ActingSpec:
        """One attention's part.

        Args:
            name: the adapter's name.
            backbone: the backbone.
            layer: the layer.
            sublayer: the attention.
            first: it is the first of its place: the MLP's hidden layer, computed once a call, is counted here.
        """
        core = sublayer.core
        assert core is not None
        width, gate = backbone.hidden_size, self.gates * core.width_in
        made = self.prefix_length * self.bottleneck_size
        if self.flat:
            weights, call = self.prefix_length * 2 * core.width_out, 0
        else:
            weights = (self.bottleneck_size + 1) * 2 * core.width_out
            call = made * 2 * core.width_out + first * made * width
        return ActingSpec(
            layer=layer.index,
            site=core.name,
            rank=self.prefix_length,
            parameters=weights + gate + self.gates,
            multiplies=gate,  # attention over the virtual tokens is counted for all prefixes of a site at once
            increment_multiplies=0,
            shape=(self.method, name),  # of two prefixes, nothing is gained by making them in one product
            once_multiplies=call,
            moves_text=self.counted and backbone.architecture in RELATIVE,
        )
