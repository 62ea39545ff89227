"""What the peer gets wrong, held for the methods at linear maps. Case numbers are those of the list of its defects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import compose
from compose.dsl import Parallel, Route, Stack
from compose.methods.registry import make_config
from tests import tiny
from tests.defects.cases import batch, differ, each_row_to_its_task, model, out
from tests.laws.worlds import close
from tests.methods.shapes import BERT_BASE

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


@pytest.mark.parametrize("architecture", tiny.CONFIGS)
@pytest.mark.parametrize("method", METHODS)
def test_side_by_side(method: str, architecture: str) -> None:
    """Cases 7, P1 and P3: at all maps, in Parallel and routed row by row, each computes what it does alone."""
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
    """Case 8: a fresh member changes nothing, on GPT-2's fused map too, on which the peer stacks nothing."""
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
    at_bert_base = make_config("vera").describe("a", BERT_BASE)
    assert sum(part.parameters for part in at_bert_base.parts) == 24 * (8 + 768) == 18_624


@pytest.mark.parametrize("architecture", FEW)
@pytest.mark.parametrize("method", ["lora", *METHODS])
def test_a_reset_brings_the_weight_back(method: str, architecture: str) -> None:
    """Case 11: merged it computes the same from changed weights, which are the old ones bit for bit after a reset."""
    made = model(architecture, a=(method, {**METHODS.get(method, {}), **EVERYWHERE}))
    before = {name: weight.clone() for name, weight in made.backbone.named_parameters()}
    expected = out(made, "a")
    made.merge("a")
    changed = {name for name, weight in made.backbone.named_parameters() if not torch.equal(weight, before[name])}
    assert len(changed) >= 2 * (4 if architecture == "gpt2" else 6)
    close(out(made, "a"), expected)
    made.unmerge()
    assert all(torch.equal(weight, before[name]) for name, weight in made.backbone.named_parameters())
    assert torch.equal(out(made, "a"), expected)


@pytest.mark.parametrize("full", [False, True])
def test_tasks_that_share_factors(full: bool) -> None:
    """Cases 4 and 19: each row goes through its task's matrix, diagonal or full, and to its task's head."""
    kind = "linear" if full else "singular_values"
    made = model(**dict.fromkeys("ab", ("mtl_lora", {"n_up_projection": 2, "task_specific_matrix_type": kind})))
    compose.share_factors(made, "a", "b")
    each_row_to_its_task(made)
    assert differ(out(made, "a"), out(made, "b"))
    part: Any = made.adapters["a"].part(0, "attn.q")
    assert part.task.shape == ((8, 8) if full else (8,)) and part.a is made.adapters["b"].part(0, "attn.q").a
