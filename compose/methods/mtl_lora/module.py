"""An MTL-LoRA adapter's weights at one linear map."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from compose.methods import init
from compose.methods.linear.module import LowRankPart
from compose.methods.mtl_lora.spec import MtlLoraConfig
from compose.specs import ActingSpec, SiteSpec


class MtlLoraPart(LowRankPart):
    """A task's matrix between factors that tasks may share: e(y; c) = y + scale * sum_i w_i b_i @ t @ a @ c.

    The weights w are softmax(weights / sharpness), t is a diagonal or a full matrix.

    Args:
        config: the options.
        acting: its row of the adapter's spec: the rank.
        site: the site: the widths.
    """

    shareable = ("a", "b")
    config: MtlLoraConfig

    def __init__(self, config: MtlLoraConfig, acting: ActingSpec, site: SiteSpec) -> None:
        super().__init__(config, site)
        self.full = config.task_specific_matrix_type == "linear"
        self.a = nn.Parameter(torch.empty(acting.rank, site.width_in))
        self.b = nn.Parameter(torch.empty(config.n_up_projection, site.width_out, acting.rank))
        self.task = nn.Parameter(torch.empty((acting.rank,) * (2 if self.full else 1)))
        self.weights = nn.Parameter(torch.empty(config.n_up_projection))
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Draw the weights that `init_weights` asks for; the task's matrix starts as the identity."""
        source = init.generator(self.config.init_weights_seed)
        if self.config.init_weights == "lora":
            init.kaiming(self.a, source)
            nn.init.zeros_(self.b)
        else:
            init.normal(self.a, source)
            init.normal(self.b, source)
        if self.full:
            nn.init.eye_(self.task)
        else:
            nn.init.ones_(self.task)
        nn.init.ones_(self.weights)
        if self.gate is not None:
            init.normal(self.gate.weight, source)

    def downs(self) -> tuple[Tensor, ...]:
        """The first factor, and the task's matrix."""
        return (self.a, self.task) if self.full else (self.task.unsqueeze(1) * self.a,)

    def up(self) -> Tensor:
        """The up-projections, weighed and added up."""
        shares = torch.softmax(self.weights / self.config.weights_sharpness, dim=0)
        return (shares[:, None, None] * self.b).sum(0)

    def sources(self) -> tuple[Tensor, ...]:
        """The up-projections and their weights."""
        return (self.b, self.weights)
