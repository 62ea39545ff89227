"""What tells one backbone from another: architecture, sizes, and a few of its weights.

Weights are compared with a tolerance, so that a copy in bfloat16 or float16 is the same backbone, while
another model of the same shape, or the same model after fine-tuning, is another. Tensors that are stored
quantised are left out of the comparison; what such a copy still has in floating point (embeddings) decides.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from compose.errors import FileError, Problem
from compose.specs import BackboneSpec

VALUES = 16
"""Numbers taken of a tensor."""
OUTSIDE = 2
"""Tensors taken outside the layers (embeddings)."""
INSIDE = 6
"""Tensors taken inside the layers."""

TOLERANCE = 0.005
"""Relative distance allowed: rounding to bfloat16 moves a number by at most 1/512 of itself."""
QUANTISED_TOLERANCE = 0.25
"""The same where the weights went through 4 or 8 bits and back."""

# Poolers and heads are often drawn at random when a checkpoint lacks them.
_UNSTABLE = ("pooler", "classifier", "lm_head", "score", "qa_outputs", "cls.", "mask_token")


@dataclass(frozen=True)
class Fingerprint:
    """A backbone's fingerprint.

    Args:
        architecture: transformers' `model_type`.
        sizes: hidden size, number of layers and the like, by name.
        samples: for some tensors a few of their numbers; empty where they cannot be read (quantised).
        quantised: the numbers went through few bits, so they are compared coarsely.
    """

    architecture: str
    sizes: tuple[tuple[str, int], ...]
    samples: tuple[tuple[str, tuple[float, ...]], ...]
    quantised: bool = False

    @classmethod
    def of(cls, spec: BackboneSpec, tensors: Iterable[tuple[str, Tensor]], quantised: bool = False) -> Fingerprint:
        """The fingerprint of a backbone.

        Args:
            spec: its spec.
            tensors: its parameters by name, as `named_parameters()` gives them. Only a few numbers of a few
                of them are read.
            quantised: these are weights that were brought back from few bits.
        """
        candidates = {
            name: tensor
            for name, tensor in tensors
            if tensor.dim() >= 2 and not any(part in name for part in _UNSTABLE)
        }
        samples = tuple((name, _values(candidates[name])) for name in _choose(candidates))
        few_bits = quantised or any(not values for _, values in samples)
        return cls(spec.architecture, _sizes(spec), samples, few_bits)

    def mismatch(self, other: Fingerprint) -> list[Problem]:
        """Why `other` is not this backbone; empty if it is.

        Args:
            other: the fingerprint of the backbone at hand; `self` is the one that was saved.
        """
        if self.architecture != other.architecture:
            return [Problem(f"made for architecture '{self.architecture}', this backbone is '{other.architecture}'")]
        theirs = dict(other.sizes)
        problems = [
            Problem(f"made for a backbone with {name.replace('_', ' ')} {size}, this one has {theirs[name]}")
            for name, size in self.sizes
            if name in theirs and theirs[name] != size
        ]
        return problems or self._different_weights(other)

    def _different_weights(self, other: Fingerprint) -> list[Problem]:
        tolerance = QUANTISED_TOLERANCE if self.quantised or other.quantised else TOLERANCE
        theirs = dict(other.samples)
        pairs = [
            (name, values, theirs[name])
            for name, values in self.samples
            if values and theirs.get(name) and len(theirs[name]) == len(values)
        ]
        if not pairs:
            readable = any(values for _, values in self.samples) and any(theirs.values())
            return (
                [Problem("the weights cannot be compared: its tensors have other names than this backbone's")]
                if readable
                else []
            )
        far = {name: distance for name, a, b in pairs if (distance := _distance(a, b)) > tolerance}
        if not far:
            return []
        worst = max(far, key=lambda name: far[name])
        return [
            Problem(
                f"made for another '{self.architecture}' of the same size: the weights differ",
                why=f"{len(far)} of {len(pairs)} tensors compared, '{worst}' by {far[worst]:.0%}",
            )
        ]

    def to_json(self) -> dict[str, Any]:
        """The fingerprint as JSON values."""
        return {
            "architecture": self.architecture,
            "sizes": dict(self.sizes),
            "samples": {name: list(values) for name, values in self.samples},
            "quantised": self.quantised,
        }

    @classmethod
    def from_json(cls, content: object, where: str = "") -> Fingerprint:
        """The fingerprint that `to_json` gave.

        Raises:
            FileError: `content` is not one.
        """
        if not isinstance(content, Mapping):
            raise FileError("the fingerprint is not a JSON object", where=where)
        architecture, sizes, samples = (content.get(key) for key in ("architecture", "sizes", "samples"))
        good = (
            isinstance(architecture, str)
            and isinstance(sizes, dict)
            and all(type(size) is int for size in sizes.values())
            and isinstance(samples, dict)
            and all(_numbers(values) for values in samples.values())
            and isinstance(content.get("quantised", False), bool)
        )
        if not good:
            raise FileError("the fingerprint is damaged", where=where)
        assert isinstance(architecture, str) and isinstance(sizes, dict) and isinstance(samples, dict)
        return cls(
            architecture,
            tuple(sorted(sizes.items())),
            tuple(sorted((name, tuple(float(value) for value in values)) for name, values in samples.items())),
            bool(content.get("quantised", False)),
        )


def _sizes(spec: BackboneSpec) -> tuple[tuple[str, int], ...]:
    sizes = {
        "hidden_size": spec.hidden_size,
        "layers": len(spec.layers),
        "decoder_layers": sum(layer.stack == "decoder" for layer in spec.layers),
        "vocabulary": spec.vocabulary,
    }
    return tuple(sorted(sizes.items()))


def _choose(candidates: Mapping[str, Tensor]) -> list[str]:
    """Names spread over the model: by name alone, so that every copy of it gives the same ones."""
    inside = sorted(name for name in candidates if any(part.isdecimal() for part in name.split(".")))
    outside = sorted(set(candidates) - set(inside))
    # The largest ones outside are the embeddings of the vocabulary, or of the patches.
    outside.sort(key=lambda name: -candidates[name].numel())
    chosen = outside[:OUTSIDE]
    steps = min(INSIDE, len(inside))
    chosen += [inside[round(step * (len(inside) - 1) / max(1, steps - 1))] for step in range(steps)]
    return sorted(dict.fromkeys(chosen))


def _values(tensor: Tensor) -> tuple[float, ...]:
    """A few numbers from all over a tensor, rounded to 8 digits; none if it is not stored as numbers."""
    if not tensor.is_floating_point() or tensor.dtype.itemsize < 2 or tensor.device.type == "meta":
        return ()
    size = tensor.numel()
    positions = torch.tensor([(12_345 + step * 2_654_435_761) % size for step in range(min(VALUES, size))])
    places = torch.unravel_index(positions.to(tensor.device), tensor.shape)
    numbers = tensor.detach()[places].double().tolist()
    return tuple(float(f"{number:.8g}") for number in numbers)


def _distance(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """The distance of two lists of numbers, relative to the larger norm."""
    norm = max(math.hypot(*a), math.hypot(*b))
    if not math.isfinite(norm):
        return math.inf
    return math.dist(a, b) / norm if norm else 0.0


def _numbers(values: object) -> bool:
    return isinstance(values, list) and all(
        isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) for value in values
    )
