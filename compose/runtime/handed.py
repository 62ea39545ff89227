"""What modules hand on: a tensor, alone or as the first of a tuple; rows, or classes of rows after a fork."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def first(output: Any) -> Tensor:
    """The tensor that a module hands on, alone or as the first of a tuple."""
    tensor: Tensor = output[0] if isinstance(output, tuple) else output
    return tensor


def with_first(output: Any, tensor: Tensor) -> Any:
    """The output with another first tensor, in the form in which it came."""
    return (tensor, *output[1:]) if isinstance(output, tuple) else tensor


def flat(tensor: Tensor) -> tuple[Tensor, torch.Size]:
    """[classes, batch, tokens, width], as it is after a fork inside a layer, as rows; and its shape."""
    return (tensor.flatten(0, 1) if tensor.dim() == 4 else tensor), tensor.shape
