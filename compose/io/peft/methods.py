"""PEFT's methods and ours: one row for each, with the two ways between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from compose.io.modules import BackboneModules
from compose.io.peft import lora
from compose.io.records import AdapterRecord
from compose.methods.config import Config

Weights = dict[str, dict[str, Tensor]]
"""By the path of a module in the backbone (empty: the model itself), then by the name of the weight there."""


class Method(NamedTuple):
    """A row of `METHODS`.

    Args:
        ours: the name of our method.
        leaves: the names of the weights at a module, in keys.
        read: from (PEFT's config, weights, modules, the file for errors) to our config, and tensors by canonical name.
        write: from (the adapter, modules, what errors call it) to PEFT's config, and weights.
    """

    ours: str
    leaves: tuple[str, ...]
    read: Callable[[Mapping[str, Any], Weights, BackboneModules, str], tuple[Config, dict[str, Tensor]]]
    write: Callable[[AdapterRecord, BackboneModules, str], tuple[dict[str, Any], Weights]]


METHODS: Mapping[str, Method] = {
    "LORA": Method("lora", tuple(lora.LEAVES), lora.read, lora.write),
}
"""By PEFT's `peft_type`."""
