"""Fingerprints: copies of a backbone in other precisions are it, other backbones are not."""

from __future__ import annotations

import json

import pytest
import torch

from compose.errors import FileError
from compose.io import Fingerprint
from compose.specs import BackboneSpec
from tests.io.folders import backbone, fingerprint, weights


def of(tensors: dict[str, torch.Tensor], spec: BackboneSpec | None = None, quantised: bool = False) -> Fingerprint:
    return Fingerprint.of(spec or backbone(), tensors.items(), quantised)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_copies_in_other_precisions(dtype: torch.dtype) -> None:
    tensors = {name: tensor * 0.02 for name, tensor in weights().items()}
    copy = of({name: tensor.to(dtype) for name, tensor in tensors.items()})
    assert not of(tensors).mismatch(copy)
    assert not copy.mismatch(of(tensors))


def test_another_of_the_same_shape() -> None:
    problems = fingerprint(0).mismatch(fingerprint(1))
    assert len(problems) == 1 and "the weights differ" in problems[0].what


def test_a_fine_tuned_one() -> None:
    tuned = {name: tensor + 0.02 * torch.randn_like(tensor) for name, tensor in weights().items()}
    assert of(weights()).mismatch(of(tuned))


def test_what_it_does_not_depend_on() -> None:
    """Poolers and heads, and LayerNorms that were trained."""
    tensors = weights()
    tensors["pooler.dense.weight"] = torch.randn(8, 8)
    tensors["classifier.weight"] = torch.randn(3, 8)
    for name in tensors:
        if "LayerNorm" in name:
            tensors[name] = torch.randn(8)
    assert of(tensors) == of(weights())


def quantise(tensor: torch.Tensor, bits: int) -> torch.Tensor:
    scale = tensor.abs().amax(-1, keepdim=True) / (2 ** (bits - 1) - 1)
    return (tensor / scale).round() * scale


@pytest.mark.parametrize("bits", [4, 8])
def test_quantised_copies(bits: int) -> None:
    dequantised = {name: quantise(tensor, bits) if tensor.dim() > 1 else tensor for name, tensor in weights().items()}
    assert not of(weights()).mismatch(of(dequantised, quantised=True))
    assert of(weights(1)).mismatch(of(dequantised, quantised=True))


def test_packed_copies() -> None:
    """Where the layers are packed integers, the embeddings decide."""
    packed = {
        name: tensor if "embedding" in name or tensor.dim() < 2 else torch.zeros((32, 1), dtype=torch.uint8)
        for name, tensor in weights().items()
    }
    assert of(packed).quantised
    assert not of(weights()).mismatch(of(packed))
    assert of(weights(1)).mismatch(of(packed))


def test_sizes_and_architecture() -> None:
    own = of(weights())
    deeper = own.mismatch(of(weights(), backbone(layers=3)))
    assert [problem.what for problem in deeper] == ["made for a backbone with layers 2, this one has 3"]
    wider = own.mismatch(of(weights(width=16), backbone(width=16)))
    assert "hidden size 8, this one has 16" in wider[0].what
    assert "'bert'" in own.mismatch(of(weights(), backbone("roberta")))[0].what


def test_other_names() -> None:
    renamed = of({f"model.{name}": tensor for name, tensor in weights().items()})
    assert "other names" in fingerprint().mismatch(renamed)[0].what


def test_json() -> None:
    own = fingerprint()
    assert Fingerprint.from_json(json.loads(json.dumps(own.to_json()))) == own
    assert len(json.dumps(own.to_json())) < 4000
    for damaged in (
        None,
        {},
        {**own.to_json(), "samples": {"a": ["x"]}},
        {**own.to_json(), "sizes": {"a": 1.5}},
    ):
        with pytest.raises(FileError):
            Fingerprint.from_json(damaged)


def test_it_is_cheap() -> None:
    """It reads a few numbers: tensors of a size that no copy of could be made are no hindrance."""
    huge = torch.zeros(1, 1).expand(2**30, 2**20)
    assert len(of({"embeddings.weight": huge, "layer.0.weight": huge.T}).samples) == 2
