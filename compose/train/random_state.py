"""The states of all generators of random numbers that training draws from."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from compose.runtime.model import Model

CUDA = "cuda."


def seed_all(model: Model, seed: int, rank: int = 0) -> None:
    """Begins all of them anew; processes draw different dropout, and the same layers to drop."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed + rank)
    model.drop_generator.seed(seed)


def random_state(model: Model) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Their states, as tensors and as what JSON takes."""
    tensors = {"torch": torch.get_rng_state()}
    if model.device.type == "cuda":
        tensors |= {f"{CUDA}{index}": state for index, state in enumerate(torch.cuda.get_rng_state_all())}
    kind, keys, *rest = np.random.get_state(legacy=True)
    assert kind == "MT19937"  # what numpy's global generator is
    tensors["numpy"] = torch.from_numpy(np.asarray(keys, dtype=np.int64))
    values = {"python": random.getstate(), "drops": model.drop_generator.getstate(), "numpy": rest}
    return tensors, values


def restore_random_state(model: Model, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    """Brings back what `random_state` gave."""
    torch.set_rng_state(tensors["torch"])
    devices = [tensors[f"{CUDA}{index}"] for index in range(len(tensors)) if f"{CUDA}{index}" in tensors]
    if devices and model.device.type == "cuda" and torch.cuda.device_count() == len(devices):
        torch.cuda.set_rng_state_all(devices)
    position, has_gauss, cached = values["numpy"]
    np.random.set_state(("MT19937", tensors["numpy"].numpy().astype(np.uint32), position, has_gauss, cached))
    random.setstate(_state(values["python"]))
    model.drop_generator.setstate(_state(values["drops"]))


def _state(saved: Any) -> tuple[Any, ...]:
    """A state of `random`, which JSON gives back as lists."""
    version, internal, gauss = saved
    return version, tuple(internal), gauss
