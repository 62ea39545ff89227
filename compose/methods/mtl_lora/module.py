"""An MTL-LoRA adapter's weights at one linear map."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from compose.methods.lora.module import FactorsPart
from compose.methods.mtl_lora.spec import MtlLoraConfig
from compose.specs import ActingSpec, SiteSpec


class MtlLoraPart(FactorsPart):
    """A task's matrix between factors that tasks may share: e(y; c) = y + scale * sum_i w_i b_i @ t @ a @ c.

    The weights w are softmax(weights / sharpness), t is a diagonal or a full matrix.

    Args:
        config: the options.
        acting: its row of the adapter's spec: the rank.
        site: the site: the widths.
    """

    config: MtlLoraConfig

    def __init__(self, config: MtlLoraConfig, acting: ActingSpec, site: SiteSpec) -> None:
        super().__init__(config, acting, site, (config.n_up_projection,))
        self.full = config.task_specific_matrix_type == "linear"
        self.task = nn.Parameter(torch.empty((acting.rank,) * (2 if self.full else 1)))
        self.weights = nn.Parameter(torch.empty(config.n_up_projection))
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Draw the factors; the task's matrix starts as the identity, and all up-projections weigh the same."""
        super().reset()
        if self.full:
            nn.init.eye_(self.task)
        else:
            nn.init.ones_(self.task)
        nn.init.ones_(self.weights)

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
