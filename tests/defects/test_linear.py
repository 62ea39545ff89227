"""What the peer gets wrong, held for the methods at linear maps. Case numbers are those of the list of its defects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from compose.dsl import Average, BatchSplit, Fuse, Parallel, Route, Stack
from tests import tiny
from tests.defects.cases import batch, differ, fusion, model, out
from tests.laws.worlds import close

EVERYWHERE = {"attn_matrices": ["q", "k", "v", "o"], "intermediate_lora": True, "output_lora": True}
METHODS: dict[str, dict[str, Any]] = {
    "rslora": {},
    "ia3": {},
    "dora": {},
    "vera": {"r": 3},
    "dvora": {"r": 3},
    "mtl_lora": {"n_up_projection": 2},
}
FEW = ("bert", "gpt2", "llama", "vit")


@pytest.mark.parametrize("architecture", FEW)
@pytest.mark.parametrize("method", METHODS)
def test_average_divides_once(method: str, architecture: str) -> None:
    """Case 2."""
    made = model(architecture, a=(method, METHODS[method]), b=(method, METHODS[method]))
    expected = out(made, "a")
    close(out(made, Average("a", "a")), expected)
    close(out(made, Average("a", "b", weights=[1, 0])), expected)
    assert differ(out(made, Average("a", "b")), expected)


@pytest.mark.parametrize("architecture", tiny.CONFIGS)
@pytest.mark.parametrize("method", METHODS)
def test_side_by_side(method: str, architecture: str) -> None:
    """Case 7, and P1 and P3: in Parallel and routed row by row each computes what it does alone."""
    made = model(architecture, a=(method, EVERYWHERE), b=(method, EVERYWHERE))
    inputs = batch(architecture, padded=True)
    single = {name: out(made, name, inputs) for name in ("a", "b")}
    first, second = out(made, Parallel("a", "b"), inputs).chunk(2)
    close(first, single["a"])
    close(second, single["b"])
    assert differ(first, second)
    found = out(made, Route(a="a", b="b"), inputs, route=["b", "a"])
    close(found[0], single["b"][0])
    close(found[1], single["a"][1])


@pytest.mark.parametrize("architecture", tiny.CONFIGS)
@pytest.mark.parametrize("method", METHODS)
def test_a_fresh_one_on_top(method: str, architecture: str) -> None:
    """Case 8, and GPT-2's fused map, on which the peer stacks nothing: a fresh member changes nothing."""
    made = model(architecture, a=("lora", EVERYWHERE), b=(method, EVERYWHERE))
    made.add_adapter("fresh", method, **EVERYWHERE)
    for name in ("a", "b"):
        expected = out(made, name)
        assert differ(expected, out(made, None))
        assert torch.equal(out(made, Stack(name, "fresh")), expected)
        close(out(made, Stack("fresh", name)), expected)


@pytest.mark.parametrize("architecture", FEW)
def test_increments_at_one_map_add_up(architecture: str) -> None:
    """Case 8: what reads the map's input alone does so in a Stack too, so that the order says nothing."""
    made = model(architecture, a="lora", b="dora", c=("vera", {"r": 3}), d="mtl_lora")
    expected = out(made, Stack("a", "b", "c", "d"))
    close(out(made, Stack("d", "c", "b", "a")), expected)
    assert differ(expected, out(made, Stack("a", "b", "c")))


MIXES: dict[str, tuple[Any, Any]] = {
    "lora and ia3": ("lora", "ia3"),
    "ia3 and seq_bn": ("ia3", "seq_bn"),
    "dora and double_seq_bn": ("dora", "double_seq_bn"),
    "vera and ia3": (("vera", {"r": 3}), ("ia3", {"intermediate_lora": False})),
    "unlike maps": (("dora", {"attn_matrices": ["q"]}), ("mtl_lora", {"attn_matrices": ["v"]})),
}


@pytest.mark.parametrize("architecture", FEW)
@pytest.mark.parametrize("mix", MIXES)
def test_mixed_methods(mix: str, architecture: str) -> None:
    """Case 16: whatever stands side by side, every branch and row equals its single run, and it can be fused."""
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
    fusion(made, Fuse("b", "a"))
    fused = out(made, Fuse("b", "a"), inputs)
    assert differ(fused, out(made, None, inputs))
    reference = made.plan(Fuse("b", "a"), ["fold"]).states(**inputs).last_hidden_state
    close(fused, reference.detach())


@pytest.mark.parametrize("architecture", tiny.CONFIGS)
def test_every_map_is_its_own(architecture: str) -> None:
    """Case 12: a DoRA part reads the weight that it acts on, and no later one."""
    made = model(architecture, a="dora")
    states: list[torch.Tensor] = []
    layers = made.hooks.anatomy.layers
    layers[0].layer.register_forward_hook(
        lambda module, args, output: states.append(output[0] if isinstance(output, tuple) else output)
    )
    out(made, "a")
    with torch.no_grad():
        for sublayer in layers[1].sublayers:
            for linear in sublayer.linears:
                linear.module.weight.add_(5.0)
    out(made, "a")
    assert torch.equal(*states)


def test_dora_on_a_fused_map() -> None:
    """F12: on GPT-2 every map has its rows of the fused weight, which lies transposed."""
    made = model("gpt2", 1, a=("dora", {"attn_matrices": ["v"], "r": 2, "alpha": 4}))
    part: Any = made.adapters["a"].part(0, "attn.v")
    module = made.backbone.h[0].attn.c_attn
    weight = module.weight[:, 64:].T
    moved = weight + 2 * part.update.b @ part.update.a
    wanted = part.magnitude[:, None] * moved / moved.norm(dim=1, keepdim=True)
    found: list[torch.Tensor] = []
    module.register_forward_hook(lambda module, args, output: found.extend([args[0], output]))
    out(made, "a")
    input, output = found
    plain = input @ module.weight + module.bias
    assert torch.equal(output[..., :64], plain[..., :64])
    close(output[..., 64:].detach(), (input @ wanted.T + module.bias[64:]).detach())


def test_a_file_of_vera_is_small(tmp_path: Path) -> None:
    """Case 22: vectors, and the factors that all maps share once, not square matrices for every map."""
    made = model(a=("vera", {"r": 4}))
    made.save_adapter("a", tmp_path)
    numbers = 2 * 2 * (4 + 32) + 2 * 4 * 32  # d and b at q and v of two layers, A and B
    assert (tmp_path / "adapter.safetensors").stat().st_size < 8 * numbers + 1500
    made.load_adapter(tmp_path, name="b")
    assert torch.equal(out(made, "a"), out(made, "b"))
