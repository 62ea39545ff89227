"""The methods side by side: what each preset weighs and costs on a backbone, and what it composes with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from safetensors.torch import save

from compose.compile import compile_plan
from compose.dsl import Average, BatchSplit, Drop, Expression, Fuse, Parallel, Route, Split, Stack
from compose.errors import ComposeError, ConfigError
from compose.explain import explain
from compose.graph.check import fusion_sites
from compose.graph.sites import Vocabulary
from compose.methods.adapter import Adapter
from compose.methods.presets import PRESETS
from compose.methods.registry import make_config
from compose.specs import AdapterSpec, BackboneSpec, FusionSpec

BLOCKS: Mapping[str, Expression] = {
    "Stack": Stack("a", "b"),
    "Fuse": Fuse("a", "b"),
    "Parallel": Parallel("a", "b"),
    "Route": Route({"a": "a", "b": "b"}),
    "BatchSplit": BatchSplit("a", "b", sizes=[1, None]),
    "Split": Split("a", "b", sizes=[1, None]),
    "Average": Average("a", "b"),
    "Drop": Drop("a", first=1),
}
"""What is tried with two adapters of a method, or one of it and a bottleneck."""


class Entry(NamedTuple):
    """A preset on a backbone.

    Args:
        preset: its name.
        parameters: how many weights are trained.
        file_bytes: size of its weights' file.
        flops: what it adds to a row's FLOPs, as a share of the backbone's.
        alike: the blocks in which two of them stand side by side.
        mixed: those in which one stands beside a bottleneck.
    """

    preset: str
    parameters: int
    file_bytes: int
    flops: float
    alike: tuple[str, ...]
    mixed: tuple[str, ...]


def catalogue(backbone: BackboneSpec, tokens: int = 128) -> Iterator[Entry]:
    """The presets that fit a backbone; of two names for the same options the first.

    Args:
        backbone: its spec; its weights are not needed.
        tokens: of a row.
    """
    seen = set()
    for name in PRESETS:
        config = make_config(name)
        if config in seen:
            continue
        seen.add(config)
        try:
            adapter = Adapter("a", config, backbone)
        except ConfigError:  # as layer aggregation over two stacks
            continue
        spec, other = adapter.spec, config.describe("b", backbone)
        beside = make_config("seq_bn").describe("b", backbone)
        yield Entry(
            preset=name,
            parameters=sum(weight.numel() for weight in adapter.parameters() if weight.requires_grad),
            file_bytes=len(save({key: tensor.contiguous() for key, tensor in adapter.tensors().items()})),
            flops=_flops(backbone, spec, tokens),
            alike=_blocks(backbone, spec, other),
            mixed=_blocks(backbone, spec, beside),
        )


def _flops(backbone: BackboneSpec, spec: AdapterSpec, tokens: int) -> float:
    vocabulary = Vocabulary(backbone, {"a": spec}, {})
    with_it, without = (
        explain(compile_plan(expression, vocabulary), vocabulary, {}, 1, tokens).flops for expression in ("a", None)
    )
    return with_it / without - 1


def _blocks(backbone: BackboneSpec, spec: AdapterSpec, other: AdapterSpec) -> tuple[str, ...]:
    """The blocks in which two adapters have a meaning together."""
    vocabulary = Vocabulary(backbone, {"a": spec, "b": other}, {})
    return tuple(name for name, expression in BLOCKS.items() if _compiles(expression, vocabulary))


def _compiles(expression: Expression, vocabulary: Vocabulary) -> bool:
    if isinstance(expression, Fuse):
        fusion = FusionSpec("a,b", fusion_sites(expression, vocabulary))
        vocabulary = Vocabulary(vocabulary.backbone, vocabulary.adapters, {"a,b": fusion})
    try:
        compile_plan(expression, vocabulary)
    except ComposeError:
        return False
    return True
