"""Where a run computes."""

from __future__ import annotations

import os
from typing import Literal

import torch

from compose.errors import ConfigError
from compose.runtime.model import Model

Device = Literal["cpu", "cuda"]


def place(model: Model, device: Device) -> None:
    """Moves a backbone to where it computes; what is added to it later follows.

    Args:
        model: with a backbone alone.
        device: `cuda` is the first GPU that torch sees, or of several processes each one's own.

    Raises:
        ConfigError: torch sees no GPU, or fewer than there are processes.
    """
    if device == "cpu":
        return
    index, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if index >= count:
        what = f"GPU {index} is needed, but torch sees {count}"
        raise ConfigError(what, hint="device: cpu, or a build of torch with CUDA")
    model.backbone.to(torch.device("cuda", index))
