"""A prefix's weights at one attention, and what the attentions of an adapter have in common."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from compose.methods import init
from compose.methods.bottleneck.module import activation, averaged_gate
from compose.methods.part import Context, Part, Shared
from compose.methods.prefix.spec import PrefixConfig, place_of
from compose.specs import EMBED, ActingSpec, AdapterSpec, BackboneSpec, SiteSpec


class PrefixSource(nn.Module):
    """What the virtual tokens' keys and values in several layers are made from: an embedding and a hidden layer.

    Args:
        config: the options.
        width: of the embedding.
    """

    def __init__(self, config: PrefixConfig, width: int) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.empty(config.prefix_length, width))
        self.down = init.linear(width, config.bottleneck_size)
        self.activation = activation(config.non_linearity).to(self.embedding.dtype)
        source = init.generator(config.init_weights_seed)
        with torch.no_grad():
            self.embedding.normal_(generator=source)
            init.kaiming(self.down.weight, source)

    def forward(self) -> Tensor:
        """[prefix_length, bottleneck_size]."""
        hidden: Tensor = self.activation(self.down(self.embedding))
        return hidden


class PrefixSources(nn.ModuleDict):
    """The sources of an adapter, one for each of `spec.PLACES` where it acts; none if it is flat.

    Args:
        config: the options.
        spec: the adapter's spec.
        backbone: the backbone.
    """

    def __init__(self, config: PrefixConfig, spec: AdapterSpec, backbone: BackboneSpec) -> None:
        cores = [(part.layer, part.site) for part in spec.parts if part.site != EMBED]
        places = dict.fromkeys(place_of(backbone, *core) for core in cores)
        super().__init__({} if config.flat else {each: PrefixSource(config, backbone.hidden_size) for each in places})
        self._of = {core: place_of(backbone, *core) for core in cores}

    def of(self, layer: int, site: str) -> PrefixSource | None:
        """The source of one attention's prefix; None for a flat one."""
        place = self._of[layer, site]
        return self[place] if place in self.keys() else None  # type: ignore[return-value]


class PrefixPart(Part):
    """The keys and values of virtual tokens at one attention.

    A flat prefix has them as weights; else they are `up(activation(down(embedding)))`, of which only `up` is this
    attention's own.

    Args:
        config: the options.
        acting: its row of the adapter's spec: the number of virtual tokens.
        site: the attention: the width of its keys.
        sources: what the adapter's parts have in common.
    """

    has_increment = False

    def __init__(self, config: PrefixConfig, acting: ActingSpec, site: SiteSpec, sources: PrefixSources) -> None:
        super().__init__()
        self.config = config
        self.length, self.width = acting.rank, site.width_out
        self._source = Shared(sources.of(acting.layer, acting.site)) if not config.flat else None  # type: ignore[arg-type]
        self.flat = nn.Parameter(torch.empty(2, self.length, self.width)) if config.flat else None
        self.up = None if config.flat else init.linear(config.bottleneck_size, 2 * self.width)
        self.gate = nn.utils.skip_init(nn.Linear, site.width_in, config.gates) if config.gates else None
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Draw the weights, as wide as AdapterHub draws them."""
        source = init.generator(self.config.init_weights_seed)
        if self.flat is not None:
            self.flat.normal_(generator=source)
        if self.up is not None:
            init.kaiming(self.up.weight, source)
        if self.gate is not None:
            init.normal(self.gate.weight, source)
            nn.init.zeros_(self.gate.bias)

    @property
    def source(self) -> PrefixSource | None:
        """What its keys and values are made from, None if they are weights themselves."""
        return None if self._source is None else self._source.module  # type: ignore[return-value]

    def states(self, hidden: Tensor | None = None) -> Tensor:
        """Keys and values, [2, prefix_length, width], before dropout and gates.

        Args:
            hidden: what its source gives, if that is known already.
        """
        if self.flat is not None:
            return self.flat
        assert self.up is not None and self.source is not None
        made = self.up(self.source() if hidden is None else hidden)
        return made.unflatten(1, (2, self.width)).transpose(0, 1)

    def rows(self, states: Tensor, input: Tensor) -> Tensor:
        """Keys and values for the rows of a call, [2, rows, prefix_length, width]; one row where all have the same.

        Args:
            states: what `states` gave.
            input: what the attention reads, [rows, tokens, hidden].
        """
        result = states.unsqueeze(1)
        if self.training and self.config.dropout > 0:
            result = functional.dropout(result.expand(-1, len(input), -1, -1), self.config.dropout)
        if self.gate is not None:
            gates = averaged_gate(self.gate(input))  # [rows, 1, gates]: one for both, or the keys' and the values'
            result = result * gates.permute(2, 0, 1).unsqueeze(-1)
        return result

    @classmethod
    def grouped(cls, parts: object, ys: Tensor, context: object) -> Tensor:
        """Prefixes are no function of the site's value; no two have one shape."""
        raise TypeError("prefixes do not run in grouped products")


class MovedTextPart(Part):
    """What virtual tokens that are counted do to the embeddings: the text's positions begin after them.

    Args:
        config: the options.
        acting: its row of the adapter's spec: the number of virtual tokens.
        site: the site.
    """

    has_increment = False

    def __init__(self, config: PrefixConfig, acting: ActingSpec, site: SiteSpec) -> None:
        super().__init__()
        self.length = acting.rank

    def forward(self, y: Tensor, context: Context) -> Tensor:
        """The embeddings of the text further on, of the shape of y."""
        assert context.embedding is not None, "the runtime gives it where the spec says that a text moves"
        return context.embedding.moved_on(y, self.length, None if context.tokens is None else context.tokens.places)

    def context_after(self, context: Context) -> Context:
        """The next one begins there."""
        assert context.embedding is not None
        return context._replace(embedding=context.embedding.further(self.length))

    @classmethod
    def grouped(cls, parts: object, ys: Tensor, context: object) -> Tensor:
        """No two have one shape."""
        raise TypeError("texts are not moved in grouped products")
