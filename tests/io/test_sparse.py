"""Sparse weights in files: bits and values, and what is refused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compose.errors import FileError
from compose.io.sparse import packed, unpacked


@given(st.lists(st.integers(0, 5), min_size=1, max_size=3), st.integers(0, 2**31), st.floats(0, 1))
def test_back_and_forth(shape: list[int], seed: int, share: float) -> None:
    source = torch.Generator().manual_seed(seed)
    mask = torch.rand(shape, generator=source) < share
    weight = torch.randn(shape, generator=source) * mask
    other = torch.randn(3, generator=source)
    stored, shapes = packed({"0.ffn.w": weight, "0.ffn.b": other}, {"0.ffn.w": mask})
    assert set(stored) == {"0.ffn.w.values", "0.ffn.w.mask", "0.ffn.b"}
    assert len(stored["0.ffn.w.values"]) == int(mask.sum())
    assert stored["0.ffn.w.mask"].numel() == -(-mask.numel() // 8)
    tensors, masks = unpacked(stored, shapes, "here")
    assert torch.equal(tensors["0.ffn.w"], weight) and torch.equal(tensors["0.ffn.b"], other)
    assert torch.equal(masks["0.ffn.w"], mask) and set(tensors) == {"0.ffn.w", "0.ffn.b"}


def test_bits_are_in_the_order_of_the_elements() -> None:
    mask = torch.tensor([1, 0, 0, 0, 0, 0, 0, 1, 1, 0], dtype=torch.bool)
    stored, _ = packed({"w": torch.arange(10.0)}, {"w": mask})
    assert stored["w.mask"].tolist() == [0b10000001, 0b10000000] and stored["w.values"].tolist() == [0, 7, 8]


@pytest.mark.parametrize(
    ("change", "shapes", "fault"),
    [
        ({}, {"w": [2, -3]}, "not a list of sizes"),
        ({}, {"w": "6"}, "not a list of sizes"),
        ({}, {"w": [5, 2]}, "a mask of 1 bytes for 10 elements"),
        ({}, {"w": [2, 2]}, "bits beyond its end"),
        ({}, {"w": [2, 3], "v": [2]}, "'v': its values or its mask are missing"),
        ({}, None, "'w.mask' is a mask of no sparse weight"),
        ({}, [1], "not a table of shapes"),
        ({"w.values": torch.ones(2)}, {"w": [2, 3]}, "3 kept, 2 values"),
        ({"w.values": torch.ones(3, 1)}, {"w": [2, 3]}, "not what they should be"),
        ({"w.mask": torch.ones(1)}, {"w": [2, 3]}, "not what they should be"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, torch.Tensor], shapes: object, fault: str) -> None:
    stored = {"w.values": torch.ones(3), "w.mask": torch.tensor([0b11000100], dtype=torch.uint8)}
    with pytest.raises(FileError, match=fault):
        unpacked({**stored, **change}, shapes, "here")
