"""The weights of layer aggregation: attention over layers, and the tailor block."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from compose.dropout import dropout
from compose.methods import init
from compose.methods.aggregation.spec import AggregationConfig
from compose.methods.part import Context, Part
from compose.methods.states import LayerStates
from compose.specs import ActingSpec, SiteSpec


def attention(query: Tensor, key: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """The weights of scaled dot-product attention, averaged over its heads, [rows, queries, keys].

    Args:
        query: [rows, queries, size].
        key: [rows, keys, size].
        heads: among which `size` is divided.
        mask: [rows, keys], 0 where a key is padding.
    """
    query, key = (each.unflatten(-1, (heads, -1)).transpose(1, 2) for each in (query, key))
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    if mask is not None:
        # The least number, not minus infinity: where all keys are padding, nothing must become NaN.
        scores = scores.masked_fill(mask[:, None, None] == 0, torch.finfo(scores.dtype).min)
    return scores.softmax(-1).mean(1)


class AggregationPart(Part):
    """Per token i, attention over the states h of all layers l, and the tailor block.

    The query is made from the token's mean over the layers, the key from the layer's mean over the tokens:

        q_i = W_q mean_l(h_il)        k_l = W_k mean_i(h_il)
        a_i = mean over heads of softmax_l(q_i . k_l / sqrt(size / heads))
        r_i = sum_l a_il h_il
        e_i = r_i + T(r)_i

    These are the equations of the author's implementation of Basirat (2024), in which W_q and W_k are products
    of two maps each. There the mean over tokens counts padding too; here it does not, so that a row's result
    does not depend on its batch mates. All maps but those to keys have a bias: a key's would add the same to all
    scores. Weights start as wide as there.

    Args:
        config: the options.
        acting: its row of the adapter's spec.
        site: the site: the width.
    """

    has_increment = False

    def __init__(self, config: AggregationConfig, acting: ActingSpec, site: SiteSpec) -> None:
        super().__init__()
        self.config = config
        self.chosen = config.chosen(acting.layer + 1)
        self.query = init.linear(site.width_in, config.size)
        self.key = init.linear(site.width_in, config.size, bias=False)
        self.tailor = Tailor(config, site.width_out) if config.tailor else None
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Draws fresh weights."""
        source = init.generator(self.config.init_weights_seed)
        bound = (2 * self.query.in_features) ** -0.5
        for module in (self.query, self.key):
            nn.init.uniform_(module.weight, -bound, bound, generator=source)
        if self.tailor is not None:
            self.tailor.reset(source)

    def weights(self, states: LayerStates) -> Tensor:
        """What share each state that is read has in a token, [rows, tokens, states]."""
        of_tokens, of_layers = states.means(self.chosen)
        return attention(self.query(of_tokens), self.key(of_layers), self.config.heads)

    def forward(self, y: Tensor, context: Context) -> Tensor:
        """The aggregated states, which take the place of the last layer's, y."""
        states = context.states
        if states is None:
            raise ValueError("the context of this site lacks its states")
        mixture = states.mixed(self.chosen, self.weights(states))
        return mixture if self.tailor is None else mixture + self.tailor(mixture, states.mask)

    @classmethod
    def grouped(cls, parts: Sequence[AggregationPart], ys: Tensor, context: Context) -> Tensor:
        """n parts over the same states, one after the other; see `Part.grouped`."""
        return torch.stack([part(y, context) for part, y in zip(parts, ys, strict=True)])


class Tailor(nn.Module):
    """The tailor block of Basirat (2024): a feed-forward with residual, then attention over the row's tokens.

        x_i = r_i + ReLU(W LayerNorm(r_i))        z = W_z dropout(x)
        T(r)_i = sum_j softmax_j((W_q z)_i . (W_k z)_j / sqrt(size / heads)) x_j

    The attention's weights are averaged over its heads; without `tailor_attention`, T(r) is x.

    Args:
        config: the options.
        width: of the states.
    """

    def __init__(self, config: AggregationConfig, width: int) -> None:
        super().__init__()
        self.config = config
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.dense = init.linear(width, width)
        if config.tailor_attention:
            self.reduce = init.linear(width, config.size)
            self.query = init.linear(config.size, config.size)
            self.key = init.linear(config.size, config.size, bias=False)

    def reset(self, source: torch.Generator | None) -> None:
        """Draws fresh weights."""
        init.kaiming(self.dense.weight, source)
        if self.config.tailor_attention:
            nn.init.xavier_uniform_(self.reduce.weight, generator=source)
            for module in (self.query, self.key):  # the author draws these and an unused third as one map
                nn.init.xavier_uniform_(module.weight, gain=0.5**0.5, generator=source)

    def forward(self, mixture: Tensor, mask: Tensor | None) -> Tensor:
        """What is added to the mixture of the layers.

        Args:
            mixture: [rows, tokens, width].
            mask: [rows, tokens], 0 where a token is padding.
        """
        states = mixture + functional.relu(self._dropped(self.dense(self.norm(mixture))))
        if not self.config.tailor_attention:
            return states
        states = self._dropped(states)
        reduced = self.reduce(states)
        return attention(self.query(reduced), self.key(reduced), self.config.heads, mask) @ states

    def _dropped(self, states: Tensor) -> Tensor:
        return dropout(states, self.config.dropout, self.training)
