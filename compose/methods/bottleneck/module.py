"""A bottleneck adapter's weights at one site."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.activations import ACT2FN

from compose.methods import init
from compose.methods.bottleneck.spec import BottleneckConfig
from compose.methods.part import Context, Factors, LowRank, Part, Prepared, grouped_linear, required
from compose.specs import ActingSpec, SiteSpec

JOINED = 1
"""How many times as large as joined down-projections what they read is, at least: below, joining costs more."""
MakeMap = Callable[[str, int, int], Any]
"""Makes the map of a direction, `down` or `up`, between two widths: a module with `weight` and `bias`."""


class BottleneckPart(Part):
    """Down, non-linearity, up, and what the options put around them.

    Args:
        config: the options.
        acting: its row of the adapter's spec: the rank.
        site: the site: the width.
        make_map: makes the down- and the up-projection; plain linear maps by default.
    """

    def __init__(
        self, config: BottleneckConfig, acting: ActingSpec, site: SiteSpec, make_map: MakeMap | None = None
    ) -> None:
        super().__init__()
        make = make_map or plain_map
        width, rank = site.width_out, acting.rank
        self.config = config
        self.rank = rank
        self.norm_before = nn.LayerNorm(width) if config.ln_before else None
        self.down = make("down", width, rank)
        self.activation = activation(config.non_linearity).to(self.down.weight.dtype)
        self.up = make("up", rank, width)
        self.scaling: nn.Parameter | None = None
        if isinstance(config.scaling, str):
            self.scaling = nn.Parameter(torch.ones(1 if config.scaling == "learned" else width))
        self.gate = init.gate(width) if config.use_gating else None
        self.norm_after = nn.LayerNorm(width) if config.ln_after else None
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Draw the weights that `init_weights` asks for."""
        source = init.generator(self.config.init_weights_seed)
        self.draw_maps(source)
        if self.gate is not None:
            init.normal(self.gate.weight, source)

    def draw_maps(self, source: torch.Generator | None) -> None:
        """Draw the weights of the two maps."""
        draw = {"bert": init.normal, "mam_adapter": init.kaiming, "houlsby": init.truncated}
        draw[self.config.init_weights](self.down.weight, source)
        if self.config.init_weights == "mam_adapter":
            nn.init.zeros_(self.up.weight)
        else:
            draw[self.config.init_weights](self.up.weight, source)

    def prepare(self, y: Tensor, context: Context) -> Prepared:
        """Input, residual and fusion queries, as the options choose them from y and x."""
        if self.config.is_parallel:
            x = required(context.residual, "residual")
            return Prepared(input=x, residual=x, query=x, query_before_norm=x, value=y)
        before = self.config.residual_before_ln
        if not self.config.original_ln_before:
            return Prepared(input=y, residual=y, query=y, query_before_norm=y, value=y)
        total = y if context.residual is None else y + context.residual
        input = total if context.norm is None else context.norm(total)
        residual = {True: y, "post_add": total, False: input}[before]
        return Prepared(input=input, residual=residual, query=input, query_before_norm=y, value=y)

    def factors(self) -> Factors:
        """The scaled up-projection's weight and bias."""
        made_from = getattr(self.up, "sources", None) or (self.up.weight,)
        sources = (*made_from, *(each for each in (self.up.bias, self.scaling) if each is not None))
        return Factors(self.scaled(self.up.weight), self._scaled_bias(), sources)

    def low_rank(self, input: Tensor) -> LowRank:
        """The scaled up-projection, before dropout, gate and own LayerNorm."""
        if self.norm_before is not None:
            input = self.norm_before(input)
        hidden = self.activation(self.down(input))
        factors = self.factors()
        if self.training and self.config.stochastic_depth > 0:
            # a skipped row loses the bias too: it becomes one more column of the masked hidden
            keep = kept_rows(hidden, self.config.stochastic_depth)
            hidden = torch.cat([hidden * keep, keep.expand(*hidden.shape[:-1], 1)], dim=-1)
            bias = torch.zeros_like(factors.up[:, 0]) if factors.bias is None else factors.bias
            return LowRank(hidden, torch.cat([factors.up, bias.unsqueeze(1)], dim=1), None, factors.sources)
        return LowRank(hidden, *factors)

    @classmethod
    def low_ranks(cls, parts: Sequence[BottleneckPart], input: Tensor) -> Sequence[LowRank | None]:
        """n parts whose down-projections are one product, where it is large enough to be worth joining them."""
        first, ranks = parts[0], [part.rank for part in parts]
        small = torch.compiler.is_compiling() or input.numel() < JOINED * sum(ranks) * input.shape[-1]
        if small or first.norm_before is not None or (first.training and first.config.stochastic_depth > 0):
            return [part.low_rank(input) for part in parts]
        biases = [part.down.bias for part in parts if part.down.bias is not None]
        weight, bias = torch.cat([part.down.weight for part in parts]), torch.cat(biases) if biases else None
        hidden = first.activation(functional.linear(input, weight, bias)).split(ranks, dim=-1)
        return [LowRank(piece, *part.factors()) for piece, part in zip(hidden, parts, strict=True)]

    def _scaled_bias(self) -> Tensor | None:
        return None if self.up.bias is None else self.scaled(self.up.bias)

    def scaled(self, weight: Tensor) -> Tensor:
        """The up-projection's weight or bias times the scaling."""
        if self.scaling is not None:
            return weight * (self.scaling.unsqueeze(1) if weight.dim() == 2 else self.scaling)
        scale = float(self.config.scaling)
        return weight if scale == 1.0 else weight * scale

    def finish(self, increment: Tensor, prepared: Prepared) -> Tensor:
        """Dropout, gate, own LayerNorm and residual; y is a parallel adapter's."""
        gate = None if self.gate is None else averaged_gate(self.gate(prepared.input))
        return close(self.config, increment, prepared, gate, self.norm_after, self.training)

    def finish_fused(self, mixture: Tensor, y: Tensor) -> Tensor:
        """The mixture; plus y where adapters act in parallel to it."""
        return mixture + y if self.config.is_parallel else mixture

    @classmethod
    def grouped(cls, parts: Sequence[BottleneckPart], ys: Tensor, context: Context) -> Tensor:
        """n parts of one shape in grouped products; see `Part.grouped`."""
        first = parts[0]
        config = first.config
        prepared = first.prepare(ys, context)
        read = prepared.input
        if first.norm_before is not None:
            read = grouped_norm(read, [part.norm_before for part in parts if part.norm_before is not None])
        hidden = grouped_linear(read, [p.down.weight for p in parts], _biases([p.down.bias for p in parts]))
        hidden = first.activation(hidden)
        ups = [part.scaled(part.up.weight) for part in parts]
        increment = grouped_linear(hidden, ups, _biases([part._scaled_bias() for part in parts]))
        if first.training and config.stochastic_depth > 0:
            increment = increment * kept_rows(increment, config.stochastic_depth)
        maps = [part.gate for part in parts if part.gate is not None]
        gate: Tensor | None = None
        if maps:
            scores = grouped_linear(prepared.input, [g.weight for g in maps], [g.bias for g in maps])
            gate = averaged_gate(scores)
        norms = [part.norm_after for part in parts if part.norm_after is not None]
        after = partial(grouped_norm, norms=norms) if norms else None
        return close(config, increment, prepared, gate, after, first.training)


def close(
    config: BottleneckConfig,
    increment: Tensor,
    prepared: Prepared,
    gate: Tensor | None,
    norm: Callable[[Tensor], Tensor] | None,
    training: bool,
) -> Tensor:
    """From the increment to the result, for one part and for a group alike."""
    out = functional.dropout(increment, config.dropout, training)
    if gate is not None:
        out = out * gate
    residual = prepared.residual if config.residual else None
    if config.is_parallel:
        # its result is added to the block's, which is no residual of its own
        return prepared.value + (out if norm is None else norm(out))
    if residual is not None and config.adapter_residual_before_ln:
        out, residual = out + residual, None
    if norm is not None:
        out = norm(out)
    return out if residual is None else out + residual


def plain_map(direction: str, width_in: int, width_out: int) -> nn.Linear:
    """A linear map with an unset weight."""
    return init.linear(width_in, width_out)


def _biases(biases: Sequence[Tensor | None]) -> list[Tensor] | None:
    """The biases of maps that all have one; None if none has."""
    return [bias for bias in biases if bias is not None] or None


def activation(name: str) -> nn.Module:
    """The activation of a name that the config accepts."""
    module: nn.Module = ACT2FN["leaky_relu" if name == "leakyrelu" else name]
    return module


def averaged_gate(scores: Tensor) -> Tensor:
    """One gate a row, [..., 1, 1], from scores [..., tokens, 1]."""
    return torch.sigmoid(scores).mean(dim=-2, keepdim=True)


def kept_rows(states: Tensor, probability: float) -> Tensor:
    """Stochastic depth: 0 for a skipped row and 1 / (1 - p) for a kept one, [..., 1, 1].

    Args:
        states: [..., tokens, width]; all leading dimensions count rows.
        probability: of a row being skipped.
    """
    rows = states.new_empty((*states.shape[:-2], 1, 1))
    return rows.bernoulli_(1 - probability).div_(1 - probability)


def grouped_norm(states: Tensor, norms: Sequence[nn.LayerNorm]) -> Tensor:
    """n LayerNorms of one width, each on its own part of states [n, rows, tokens, width]."""
    plain = functional.layer_norm(states, norms[0].normalized_shape, eps=norms[0].eps)
    weight = torch.stack([norm.weight for norm in norms])
    bias = torch.stack([norm.bias for norm in norms])
    return plain * weight[:, None, None] + bias[:, None, None]
