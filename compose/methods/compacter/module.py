"""Compacter's maps: sums of Kronecker products."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from compose.methods import init
from compose.methods.bottleneck.module import BottleneckPart
from compose.methods.compacter.spec import CompacterConfig
from compose.methods.part import Shared
from compose.specs import ActingSpec, AdapterSpec, BackboneSpec, SiteSpec


class Matrices(nn.Module):
    """`count` matrices of one size, whole or as products of two factors.

    Args:
        count: how many.
        rows, columns: of each.
        rank: of the factors; None for whole matrices.
        learned: whether they are trained.
    """

    whole: Tensor
    left: Tensor
    right: Tensor

    def __init__(self, count: int, rows: int, columns: int, rank: int | None, learned: bool = True) -> None:
        super().__init__()
        sizes = {"whole": (rows, columns)} if rank is None else {"left": (rows, rank), "right": (rank, columns)}
        self.names = tuple(sizes)
        for name, size in sizes.items():
            weight = torch.empty(count, *size)
            if learned:
                self.register_parameter(name, nn.Parameter(weight))
            else:
                self.register_buffer(name, weight)

    @property
    def weights(self) -> tuple[Tensor, ...]:
        """What they are made from."""
        return tuple(getattr(self, name) for name in self.names)

    def forward(self) -> Tensor:
        """All of them, [count, rows, columns]."""
        if len(self.names) == 1:
            return self.whole
        return (self.left.unsqueeze(-1) * self.right.unsqueeze(-3)).sum(-2)


def draw_rule(rule: Matrices, config: CompacterConfig, source: torch.Generator | None) -> None:
    """Fresh rules."""
    reach = config.phm_init_range
    for weight in rule.weights:
        if config.phm_c_init == "normal":
            nn.init.normal_(weight, std=reach, generator=source)
        else:
            nn.init.uniform_(weight, -reach, reach, generator=source)


def draw_weight(matrices: Matrices, config: CompacterConfig, source: torch.Generator | None) -> None:
    """Fresh W_i, each matrix or factor drawn for its own size."""
    draws: dict[str, Callable[..., Tensor]] = {
        "normal": partial(nn.init.normal_, std=config.phm_init_range),
        "glorot-uniform": nn.init.xavier_uniform_,
        "glorot-normal": nn.init.xavier_normal_,
        "phm": nn.init.xavier_normal_,
    }
    for weight in matrices.weights:
        for matrix in weight:
            draws[config.hypercomplex_nonlinearity](matrix, generator=source)


def rule_of(config: CompacterConfig) -> Matrices:
    """Unset rules."""
    count = config.phm_dim
    return Matrices(count, count, count, config.rule_rank, config.learn_phm)


def weight_of(config: CompacterConfig, width_in: int, width_out: int) -> Matrices:
    """Unset W_i of a map."""
    count = config.phm_dim
    return Matrices(count, width_in // count, width_out // count, config.weight_rank)


class CompacterShared(nn.Module):
    """What all maps of an adapter have in common: the rules, the W_i of each direction, both or nothing.

    Args:
        config: the options.
        spec: the adapter's spec.
        backbone: the backbone.
    """

    def __init__(self, config: CompacterConfig, spec: AdapterSpec, backbone: BackboneSpec) -> None:
        super().__init__()
        width, rank = backbone.hidden_size, spec.parts[0].rank
        self.rule = rule_of(config) if config.shared_phm_rule else None
        shares = config.shared_W_phm
        self.down = weight_of(config, width, rank) if shares else None
        self.up = weight_of(config, rank, width) if shares else None
        with torch.no_grad():
            source = init.generator(config.init_weights_seed)
            if self.rule is not None:
                draw_rule(self.rule, config, source)
            for matrices in (self.down, self.up):
                if matrices is not None:
                    draw_weight(matrices, config, source)


class PhmLinear(nn.Module):
    """A linear map whose matrix is H = sum_i rule_i (x) W_i; it is multiplied out in every call.

    That takes phm_dim products for each element of H and no more, which is little beside H's own products with the
    tokens, and makes of it a map like any other: fusions and groups take its `weight`.

    Args:
        config: the options.
        shared: what it has in common with the adapter's other maps.
        direction: `down` or `up`.
        width_in, width_out: its size.
    """

    def __init__(
        self, config: CompacterConfig, shared: CompacterShared, direction: str, width_in: int, width_out: int
    ) -> None:
        super().__init__()
        self.config = config
        self.direction = direction
        self.common = Shared(shared)
        self.rule = rule_of(config) if shared.rule is None else None
        self.factors = weight_of(config, width_in, width_out) if getattr(shared, direction) is None else None
        self.bias = nn.Parameter(torch.zeros(width_out)) if config.phm_bias else None

    @torch.no_grad()
    def reset(self, source: torch.Generator | None) -> None:
        """Draws what is its own."""
        if self.rule is not None:
            draw_rule(self.rule, self.config, source)
        if self.factors is not None:
            draw_weight(self.factors, self.config, source)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    @property
    def _made_of(self) -> tuple[Matrices, Matrices]:
        """Rules and W_i, whosever they are."""
        rule = self.common.module.rule if self.rule is None else self.rule
        matrices = getattr(self.common.module, self.direction) if self.factors is None else self.factors
        return rule, matrices  # type: ignore[return-value]

    @property
    def sources(self) -> tuple[Tensor, ...]:
        """The weights that its matrix is made from."""
        rule, matrices = self._made_of
        return (*rule.weights, *matrices.weights)

    @property
    def weight(self) -> Tensor:
        """Its matrix, [width_out, width_in]."""
        rule, matrices = (made() for made in self._made_of)
        products = rule.transpose(1, 2)[:, :, None, :, None] * matrices.transpose(1, 2)[:, None, :, None, :]
        return products.sum(0).flatten(2, 3).flatten(0, 1)

    def forward(self, input: Tensor) -> Tensor:
        """The map of [..., width_in], [..., width_out]."""
        return functional.linear(input, self.weight, self.bias)


class CompacterPart(BottleneckPart):
    """A bottleneck whose down- and up-projection are sums of Kronecker products.

    Args:
        config: the options.
        acting: its row of the adapter's spec: the rank.
        site: the site: the width.
        shared: what its maps have in common with those of the adapter's other parts.
    """

    def __init__(self, config: CompacterConfig, acting: ActingSpec, site: SiteSpec, shared: CompacterShared) -> None:
        super().__init__(config, acting, site, partial(PhmLinear, config, shared))

    def draw_maps(self, source: torch.Generator | None) -> None:
        """Draws the maps' own weights; `init_weights` says nothing of them."""
        for direction in (self.down, self.up):
            assert isinstance(direction, PhmLinear)
            direction.reset(source)
