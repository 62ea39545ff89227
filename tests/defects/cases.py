"""The small backbone, adapters and batches that the cases are about."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from compose.dsl import Expression, Route
from compose.methods.presets import PRESETS
from compose.runtime.model import Model
from tests import tiny
from tests.laws.worlds import close

TEXT = tuple(name for name in tiny.CONFIGS if name != "vit")
ROWS, TOKENS = 2, 8

BOTTLENECKS = ("seq_bn", "double_seq_bn", "par_bn")
METHODS = (*BOTTLENECKS, "lora")

SMALL: dict[str, dict[str, Any]] = {
    "prefix_tuning": {"prefix_length": 3, "bottleneck_size": 4},
    "prompt_tuning": {"prompt_length": 3},
    "reft": {"r": 2, "suffix_positions": 2},
    "mtl_lora": {"n_up_projection": 2},
}
"""What makes an adapter of a method small, or all of it act."""

EVERY: dict[str, tuple[str, dict[str, Any]]] = {
    name: (name, SMALL.get(PRESETS[name].method, {}))
    for name in {(preset.method, repr(preset.options)): name for name, preset in reversed(PRESETS.items())}.values()
}
"""An adapter of every preset, older names left out: a new method is tried as soon as it has one."""

CELLS = tuple(
    (preset, architecture)
    for preset in EVERY
    for architecture in tiny.CONFIGS
    if (preset, architecture) != ("layer_aggregation", "t5")  # whose two stacks have tokens of their own
)
"""Every preset on every architecture."""


def model(architecture: str = "bert", layers: int = 2, /, **adapters: Any) -> Model:
    """A tiny model with adapters of random weights, so that none is the identity.

    Args:
        architecture: of `tiny.CONFIGS`.
        layers: of each stack.
        **adapters: preset, or preset and options, by name.
    """
    return filled(tiny.model(architecture, layers), **adapters)


def filled(made: Model, **adapters: Any) -> Model:
    """A model with adapters of random weights; see `model`."""
    for seed, (name, given) in enumerate(adapters.items()):
        preset, options = given if isinstance(given, tuple) else (given, {})
        tiny.randomize(made.add_adapter(name, preset, **options), seed + 1)
    return made


def head(made: Model, name: str, kind: str = "classification", **options: Any) -> None:
    """Adds a head of random weights."""
    tiny.randomize(made.add_head(name, kind, **options), len(made.heads))


def fusion(made: Model, fuse: Any, *config: Any, **options: Any) -> None:
    """Adds a fusion of random weights."""
    tiny.randomize(made.add_fusion(fuse, *config, **options), 9, 0.2)


def batch(architecture: str = "bert", padded: bool = False) -> dict[str, Tensor]:
    """Two rows of eight tokens; with `padded` the second has four."""
    if architecture == "vit":
        return tiny.inputs("vit", ROWS)
    ids = torch.arange(1, ROWS * TOKENS + 1).reshape(ROWS, TOKENS)
    mask = torch.ones_like(ids)
    if padded:
        mask[1, 4:] = 0
    given = {"input_ids": ids, "attention_mask": mask}
    return {**given, "decoder_input_ids": ids[:, :6]} if architecture == "t5" else given


def out(made: Model, expression: Expression, inputs: dict[str, Tensor] | None = None, **options: Any) -> Tensor:
    """The last hidden states, one block of rows for each branch."""
    given = batch(made.spec.architecture) if inputs is None else inputs
    with torch.no_grad():
        return made.plan(expression).states(**given, **options).last_hidden_state


def each_row_to_its_task(made: Model) -> None:
    """Asserts it of tasks a and b: each row goes through its task's adapter, and to its head of another size."""
    head(made, "a", labels=2)
    head(made, "b", labels=5)
    inputs = batch(padded=True)
    with torch.no_grad():
        found = made.plan(Route(a="a", b="b"))(**inputs, route=["b", "a"])
        for task, place in (("a", 1), ("b", 0)):
            assert found[task].rows.tolist() == [place]
            close(found[task].logits, made.plan(task)(**row(inputs, place))[task].logits)


def row(inputs: dict[str, Tensor], *rows: int) -> dict[str, Tensor]:
    """Some rows of a batch."""
    return {name: tensor[list(rows)] for name, tensor in inputs.items()}


def differ(found: Tensor, other: Tensor) -> bool:
    """Whether two results are far apart, more than rounding could make them."""
    return float((found - other).abs().max()) > 1e-6
