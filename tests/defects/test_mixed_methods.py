"""Case 16 and what is near to it: unlike adapters side by side, fused, trained together, saved together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import compose
from compose.dsl import BatchSplit, Expression, Fuse, Parallel, Route, Stack
from tests import tiny
from tests.defects.cases import batch, differ, fusion, model, out
from tests.laws.worlds import close

MIXES: dict[str, tuple[Any, Any]] = {
    "lora and seq_bn": ("lora", "seq_bn"),
    "seq_bn and lora": ("seq_bn", "lora"),
    "lora and ia3": ("lora", "ia3"),
    "ia3 and seq_bn": ("ia3", "seq_bn"),
    "dora and double_seq_bn": ("dora", "double_seq_bn"),
    "vera and ia3": (("vera", {"r": 3}), ("ia3", {"intermediate_lora": False})),
    "compacter and loreft": ("compacter", "loreft"),
    "lora on q and lora on v": (("lora", {"attn_matrices": ["q"]}), ("lora", {"attn_matrices": ["v"]})),
    "dora on q and mtl_lora on v": (("dora", {"attn_matrices": ["q"]}), ("mtl_lora", {"attn_matrices": ["v"]})),
    "seq_bn and double_seq_bn": ("seq_bn", "double_seq_bn"),
    "unlike widths": (("seq_bn", {"bottleneck_size": 3}), ("seq_bn", {"bottleneck_size": 7})),
    "unlike ranks": (("lora", {"r": 2}), ("lora", {"r": 5, "alpha": 1})),
    "one with a layer left out": (("seq_bn", {"leave_out": [0]}), "seq_bn"),
}


@pytest.mark.parametrize("architecture", tiny.CONFIGS)
@pytest.mark.parametrize("mix", MIXES)
def test_mixed_methods(mix: str, architecture: str) -> None:
    """Cases 16 and P6: whatever stands side by side, every branch and row equals its single run; Fuse mixes both."""
    a, b = MIXES[mix]
    made = model(architecture, a=a, b=b)
    inputs = batch(architecture, padded=True)
    single = {name: out(made, name, inputs) for name in ("a", "b")}
    first, second = out(made, Parallel("a", "b"), inputs).chunk(2)
    close(first, single["a"])
    close(second, single["b"])
    found = out(made, BatchSplit("a", "b", sizes=[1, 1]), inputs)
    close(found[0], single["a"][0])
    close(found[1], single["b"][1])
    plain = out(made, None, inputs)
    passed, _ = out(made, Parallel(None, "b"), inputs).chunk(2)
    close(passed, plain)
    fusion(made, Fuse("b", "a"))
    fused = out(made, Fuse("b", "a"), inputs)
    assert differ(fused, plain)
    with torch.no_grad():
        close(made.plan(Fuse("b", "a"), ["fold"]).states(**inputs).last_hidden_state, fused)


def test_fuse_weighs_those_that_are_there() -> None:
    """Case 16: a Fuse mixes over the children that have weights at the site."""
    made = model(a=("seq_bn", {"leave_out": [0]}), b="seq_bn", double="double_seq_bn")
    fusion(made, Fuse("b", "a"))
    fusion(made, Fuse("a", "double"))
    weights = made.plan(Fuse("b", "a")).fusion_attention(**batch())["b,a"]
    assert weights[0]["ffn"].shape == (2, 8, 1) and weights[1]["ffn"].shape == (2, 8, 2)
    weights = made.plan(Fuse("a", "double")).fusion_attention(**batch())["a,double"]
    assert {(layer, site): found.shape[-1] for layer in weights for site, found in weights[layer].items()} == {
        (0, "attn"): 1,
        (0, "ffn"): 1,
        (1, "attn"): 1,
        (1, "ffn"): 2,
    }


WHOLE: dict[str, Any] = {
    "lora": "lora",
    "ia3": "ia3",
    "bn": "double_seq_bn",
    "reft": "loreft",
    "bias": "bitfit",
    "prefix": ("prefix_tuning", {"prefix_length": 3, "bottleneck_size": 4}),
    "prompt": ("prompt_tuning", {"prompt_length": 2}),
}


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "t5"])
def test_a_mix_is_saved_and_loaded(architecture: str, tmp_path: Path) -> None:
    """Case P6: all methods in one composition, in one folder, and the same bit for bit from there."""
    made, inputs = model(architecture, **WHOLE), batch(architecture, padded=True)
    fusion(made, Fuse("lora", "bn"))
    expressions: tuple[tuple[Expression, dict[str, Any]], ...] = (
        (Parallel(Stack("prefix", "lora", "bn"), Stack("prompt", "ia3"), "bias", Fuse("lora", "bn")), {}),
        (Route(x=Stack("bias", "reft"), y=Stack("prefix", "ia3", "bn")), {"route": ["y", "x"]}),
    )
    for number, (expression, route) in enumerate(expressions):
        made.plan(expression).save(tmp_path / str(number))
        loaded = compose.load_plan(tmp_path / str(number), model=tiny.model(architecture))
        assert loaded.expression == expression
        with torch.no_grad():
            found = loaded.states(**inputs, **route).last_hidden_state
        assert torch.equal(found, out(made, expression, inputs, **route))
