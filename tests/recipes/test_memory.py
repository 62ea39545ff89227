"""The peak of memory is that of one run, not of all that the process ran before."""

from __future__ import annotations

import pytest
import torch

from compose.recipes.memory import FORGET, forget_peak, peak_memory


@pytest.mark.skipif(not FORGET.exists(), reason="only Linux forgets")
def test_a_peak_is_forgotten() -> None:
    before = peak_memory()
    large = torch.ones(64 << 20)  # 256 MiB
    high = peak_memory()
    assert high >= before and large.sum() == 64 << 20
    del large
    forget_peak()
    assert peak_memory() <= high - 200
