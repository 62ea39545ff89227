"""One model per architecture with adapters of every method, for laws of the whole: optimisations, training."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from hypothesis import assume, currently_in_test_context
from hypothesis import strategies as st
from torch import Tensor

from compose.dsl import Expression
from compose.errors import InputError
from compose.runtime.attach import attach
from compose.runtime.model import Model
from compose.runtime.runnable import RunnablePlan
from compose.runtime.sparsity import sparsify
from tests import tiny
from tests.dsl.strategies import ALL, expressions
from tests.laws import worlds
from tests.laws.test_compositions import consistent_routes, tiny_head
from tests.laws.worlds import LAYERS, ROWS, layers_of, tokens_of

ADAPTERS: dict[str, tuple[str, dict[str, Any]]] = {
    **worlds.ADAPTERS,
    "dvora": ("dvora", {"r": 3}),
    "noreft": ("noreft", {"r": 2, "prefix_positions": 1}),
    "nice": ("seq_bn_inv", {"bottleneck_size": 4}),
    "glow": ("double_seq_bn_inv", {"bottleneck_size": 4, "inv_adapter": "glow"}),
    "prefix": ("prefix_tuning", {"prefix_length": 4, "bottleneck_size": 5}),
    "flat": ("prefix_tuning_flat", {"prefix_length": 7}),
    "prompt": ("prompt_tuning", {"prompt_length": 3}),
    "union": ("mam", {"configs": ({"method": "prefix_tuning", "bottleneck_size": 5}, {"method": "par_bn"})}),
    "sparse": ("double_seq_bn", {"bottleneck_size": 8}),
    "layers": ("layer_aggregation", {}),
}
"""Of every method; but for gates, which average over padding as AdapterHub's do, so that they depend on the batch."""

REFUSED = ("close layer", "no weights for the fusion", "virtual tokens", "of this Average", "aggregate the layers")


def names_of(architecture: str) -> tuple[str, ...]:
    """The adapters that an architecture can have: an encoder-decoder has no one stack of layers to aggregate."""
    return tuple(name for name in ADAPTERS if not (name == "layers" and architecture == "t5"))


@cache
def world(architecture: str, precision: str | None = None, scale: float = 0.3) -> Model:
    """A model with all of them, its weights random; in float64, or float32's weights in a precision."""
    dtype = torch.float64 if precision is None else torch.float32
    model = attach(tiny.backbone(architecture, LAYERS, dtype), precision=precision)
    add_adapters(model, names_of(architecture), scale)
    sparsify(model, "sparse", 0.5)
    return model.eval()


def add_adapters(model: Model, names: tuple[str, ...], scale: float = 0.3) -> None:
    """Gives a model some of them, their weights random."""
    for seed, name in enumerate(names):
        method, options = ADAPTERS[name]
        tiny.randomize(model.add_adapter(name, method, **options), seed, scale)


@st.composite
def settings_of(draw: st.DrawFn, blocks: tuple[str, ...] = ALL, architectures: tuple[str, ...] = ()) -> Any:
    """An architecture and an expression for it."""
    architecture = draw(st.sampled_from(architectures or worlds.ARCHITECTURES))
    legal = tuple(block for block in blocks if not (block == "Split" and architecture == "t5"))
    sizes = {"layers": layers_of(architecture), "tokens": tokens_of(architecture), "rows": ROWS}
    return architecture, draw(expressions(names_of(architecture), 5, blocks=legal, **sizes))


def planned(model: Model, expression: Expression, without: tuple[str, ...] = ()) -> RunnablePlan:
    """The plan with a head for every output; draws that have no meaning are passed over."""
    _needs(consistent_routes(expression))
    plan = worlds.planned(model, expression, without, REFUSED)
    _needs(plan is not None and all(output.head is not None for output in plan.plan.outputs))
    assert plan is not None
    for output in plan.plan.outputs:
        if output.head not in model.heads:
            tiny_head(model, str(output.head))
    return plan


def answers(plan: Any, inputs: dict[str, Tensor], **options: Any) -> list[Tensor]:
    """The logits of every output without gradients."""
    try:
        with torch.no_grad():
            return [output.logits for output in plan(**inputs, **options)]
    except InputError as error:
        _needs("ReFT in one batch" not in str(error))
        raise


def _needs(condition: bool) -> None:
    if currently_in_test_context():
        assume(condition)
    assert condition
