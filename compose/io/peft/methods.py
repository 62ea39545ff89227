"""PEFT's methods and ours: one row for each, with the two ways between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from compose.io.modules import BackboneModules
from compose.io.peft import dora, ia3, lora, prefixes, prompts, vera
from compose.io.peft.virtual import LEAVES
from compose.io.records import AdapterRecord
from compose.methods.config import Config

BASE, MODEL = "base_model.model.", "base_model."
"""What stands before a module's path in a key; the second in methods that wrap the model as it is."""

Weights = dict[str, dict[str, Tensor]]
"""By the path of a module in the backbone (empty: the model itself), then by the name of the weight there."""


class Method(NamedTuple):
    """A row of `METHODS`.

    Args:
        peft_type: PEFT's name of the method.
        ours: the name of our method.
        leaves: the names of the weights at a module, in keys.
        read: from (PEFT's config, weights, modules, the file for errors) to our config, and tensors by canonical name.
        write: from (the adapter, modules, what errors call it) to PEFT's config, and weights.
        when: flags of PEFT's config that must be on, where several methods of ours are one of PEFT's.
        base: what stands before the paths of modules in keys.
        alone: the names of weights that belong to no module.
        top: what stands before these in keys.
        virtual: it gives virtual tokens, which PEFT has wrappers for by the task only: without one nothing acts.
    """

    peft_type: str
    ours: str
    leaves: tuple[str, ...]
    read: Callable[[Mapping[str, Any], Weights, BackboneModules, str], tuple[Config, dict[str, Tensor]]]
    write: Callable[[AdapterRecord, BackboneModules, str], tuple[dict[str, Any], Weights]]
    when: tuple[str, ...] = ()
    base: str = BASE
    alone: tuple[str, ...] = ()
    top: str = ""
    virtual: bool = False


VIRTUAL: Any = {"base": MODEL, "alone": LEAVES, "virtual": True}

METHODS: tuple[Method, ...] = (
    Method("LORA", "dora", dora.LEAVES, dora.read, dora.write, when=("use_dora",)),
    Method("LORA", "lora", tuple(lora.LEAVES), lora.read, lora.write),
    Method("IA3", "ia3", ia3.LEAVES, ia3.read, ia3.write),
    Method("VERA", "vera", vera.LEAVES, vera.read, vera.write, alone=tuple(vera.FACTORS), top=MODEL),
    Method("PROMPT_TUNING", "prompt_tuning", LEAVES, prompts.read, prompts.write, **VIRTUAL),
    Method("P_TUNING", "prompt_tuning", LEAVES, prompts.read, prompts.write, **VIRTUAL),
    Method("PREFIX_TUNING", "prefix_tuning", LEAVES, prefixes.read, prefixes.write, **VIRTUAL),
)
"""Where several rows fit, the first counts."""


def method_read(config: Mapping[str, Any]) -> Method | None:
    """The row for a config of PEFT's, None if it is of no method that is read."""
    return next(
        (
            row
            for row in METHODS
            if row.peft_type == config.get("peft_type") and all(config.get(flag) for flag in row.when)
        ),
        None,
    )


def method_written(ours: str) -> Method | None:
    """The row for a method of ours, None if PEFT's format has none."""
    return next((row for row in METHODS if row.ours == ours), None)
