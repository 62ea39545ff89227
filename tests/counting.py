"""What a call costs, counted: speed is measured by `compose bench`, and never in a test."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode


def calls(function: Callable[..., object], *args: Any, **kwargs: Any) -> int:
    """How many functions a call calls, Python's and C's; the second time, when all is warm."""
    function(*args, **kwargs)
    count = 0

    def seen(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    gc.disable()  # a collection calls who asked to be told of it, and finalizers
    sys.setprofile(seen)
    try:
        function(*args, **kwargs)
    finally:
        sys.setprofile(None)
        gc.enable()
    return count


def flops(function: Callable[..., object], *args: Any, **kwargs: Any) -> int:
    """What torch counts in a call without gradients."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        function(*args, **kwargs)
    return counter.get_total_flops()
