"""The options of layer aggregation, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from compose.errors import ConfigError, Problem
from compose.methods.config import COUNT, FLAG, MOST, PROBABILITY, SEED, Config, Option, is_count, option
from compose.specs import STATES, ActingSpec, AdapterSpec, BackboneSpec

NUMBERS = Option(
    lambda value: isinstance(value, list | tuple | range) and len(value) <= MOST and all(map(is_count, value)),
    "a list of numbers of states: 0 the embeddings' output, n that of the n-th layer",
    normal=lambda value: tuple(sorted(set(value))),
    plain=list,
)


@dataclass(frozen=True)
class AggregationConfig(Config):
    """Options of layer aggregation: for each token attention over the states of all layers, then a tailor block.

    Nothing enters the backbone. After Ali Basirat, "Efficient Structured Prediction with Transformer Encoders",
    Northern European Journal of Language Technology 10(1), 2024, doi:10.3384/nejlt.2000-1533.2024.4932; the
    defaults are those of the author's implementation. See `AggregationPart` for the equations.

    Args:
        size: width of queries and keys, that of all heads together.
        heads: number of attention heads; their weights are averaged.
        tailor: add the tailor block's output to the mixture of the layers.
        tailor_attention: the tailor block ends in an attention over the tokens.
        dropout: in the tailor block.
        init_weights_seed: seed of the weights; the global generator otherwise.
        leave_out: numbers of states that are not read: 0 is the output of the embeddings, n that of the
            n-th layer. The last one is what the backbone gives, after its final LayerNorm if it has one.

    Raises:
        ConfigError: with a problem for every option that is out of range.
    """

    method: ClassVar[str] = "layer_aggregation"

    size: int = option(16, COUNT)
    heads: int = option(2, COUNT)
    tailor: bool = option(True, FLAG)
    tailor_attention: bool = option(True, FLAG)
    dropout: float = option(0.1, PROBABILITY)
    init_weights_seed: int | None = option(None, SEED)
    leave_out: tuple[int, ...] = option((), NUMBERS)

    @classmethod
    def conflicts(cls, values: Mapping[str, Any]) -> list[Problem]:
        """Heads of unequal width."""
        if values["size"] % values["heads"] == 0:
            return []
        return [
            Problem(
                f"size={values['size']} cannot be divided among heads={values['heads']}",
                where=cls.method,
                hint=f"size={values['heads'] * max(1, values['size'] // values['heads'])}",
            )
        ]

    def chosen(self, count: int) -> tuple[int, ...]:
        """The numbers of the states that are read, of `count`."""
        return tuple(number for number in range(count) if number not in self.leave_out)

    def describe(self, name: str, backbone: BackboneSpec) -> AdapterSpec:
        """One part, after the layers, and what it costs; see `Config.describe`."""
        if backbone.encoder_decoder:
            raise ConfigError(
                f"adapter {name!r} cannot aggregate the layers of {backbone.architecture}",
                where=self.method,
                why="an encoder-decoder has two stacks, whose states belong to different tokens",
                hint="an encoder (BERT, RoBERTa, ViT) or a decoder alone (GPT-2, LLaMA)",
            )
        count = len(backbone.layers) + 1
        problems = [
            Problem(
                f"leave_out names the state {number}, but there are {count}, 0 to {count - 1}",
                where=self.method,
            )
            for number in self.leave_out
            if number >= count
        ]
        if not problems and not self.chosen(count):
            problems = [Problem("leave_out names all states: there is nothing to read", where=self.method)]
        if problems:
            raise ConfigError(problems)
        return AdapterSpec(name, self.method, (self._acting(name, backbone),), fusible=False)

    def _acting(self, name: str, backbone: BackboneSpec) -> ActingSpec:
        width, size, states = backbone.hidden_size, self.size, len(self.chosen(len(backbone.layers) + 1))
        # A token: its query, its scores, its share in the means over tokens, and its states added up.
        multiplies = width * size + states * size + 2 * states * width
        parameters = 2 * width * size + size
        pair = 0
        if self.tailor:
            multiplies += width * width
            parameters += width * width + 3 * width
        if self.tailor and self.tailor_attention:
            multiplies += width * size + 2 * size * size
            parameters += width * size + size + 2 * size * size + size
            pair = size + width
        layer, site = backbone.states_key
        return ActingSpec(
            layer=layer,
            site=site,
            rank=size,
            parameters=parameters,
            multiplies=multiplies,
            increment_multiplies=0,
            shape=(STATES, name),  # of two, nothing would be shared but what `LayerStates` shares already
            row_multiplies=states * width * size,
            pair_multiplies=pair,
        )
