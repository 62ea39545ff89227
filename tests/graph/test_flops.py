"""Predicted FLOPs against those that torch counts, with eager attention, which the counter sees whole."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

from compose.dsl import fuses, own_name, parse
from compose.runtime.model import Model
from compose.runtime.runnable import RunnablePlan
from tests import tiny
from tests.counting import flops

ROWS, TOKENS, LAYERS = 3, 16, 4

EXPRESSIONS = (
    "None",
    "'a'",
    "Stack('a', 'd', 'lora')",
    "Parallel('a', 'b', 'd')",
    "Parallel('lora', 'qv', None)",
    "Fuse('a', 'b')",
    "Fuse('a', None, Drop('d', first=2), name='f')",
    "Fuse(Stack('a', 'b'), Stack('a', 'd'), name='g')",
    "Fuse('a', Average('a', 'b'), Fuse('a', 'd', name='inner'), name='h')",
    "Fuse('lora', 'qv')",
    "Fuse('a', 'compact', 'thin', name='made')",
    "Parallel('compact', 'thin', Stack('bias', 'a'), 'bias')",
    "Drop('d', first=2)",
    "Parallel(x=Fuse('a', 'b'), y=Drop('b', first=3), z=Stack('d', Drop('a', last=1)))",
    "Parallel(x=Drop('gated', layers=[0, 1]), y=Average('a', 'b'))",
    "Route(t1='a', t2='lora', t3='d')",
    "BatchSplit('a', 'd', sizes=[1, None])",
    "Stack('reft', 'a', 'first')",
    "Parallel('reft', 'other', 'a', Stack('first', 'reft'))",
    "Fuse('reft', 'other', Stack('first', 'reft'), name='r')",
    "Fuse('first', Stack('first', 'reft'), Drop('other', first=1), name='s')",
)

FEW = tuple(text for text in EXPRESSIONS if text.startswith(("Stack(", "Parallel(", "Drop(", "Fuse('a', 'b'")))
CASES = [(architecture, text) for architecture in ("bert", "gpt2", "t5") for text in EXPRESSIONS]
CASES += [(architecture, text) for architecture in ("roberta", "distilbert", "llama", "vit") for text in FEW]


@cache
def loaded(architecture: str) -> Model:
    model = tiny.model(architecture, LAYERS, torch.float32, attn_implementation="eager")
    for name, method, options in (
        ("a", "seq_bn", {"bottleneck_size": 4}),
        ("b", "seq_bn", {"bottleneck_size": 4}),
        ("d", "double_seq_bn", {"bottleneck_size": 5}),
        ("gated", "par_bn", {"bottleneck_size": 4, "use_gating": True}),
        ("lora", "lora", {"r": 2, "intermediate_lora": True, "output_lora": True}),
        ("qv", "lora", {"r": 3, "use_gating": True}),
        ("reft", "loreft", {"r": 8, "suffix_positions": 4}),
        ("other", "noreft", {"r": 8, "suffix_positions": 4}),
        ("first", "direft", {"r": 4, "prefix_positions": 20, "tied_weights": True}),
        ("compact", "compacter++", {"bottleneck_size": 4}),
        ("thin", "compacter++", {"bottleneck_size": 8, "phm_dim": 2, "phm_bias": False}),
        ("bias", "bitfit", {"everywhere": True}),
    ):
        model.add_adapter(name, method, **options)
    return model


def planned(model: Model, text: str, without: tuple[str, ...] = ()) -> RunnablePlan:
    expression = parse(text)
    for fuse in fuses(expression):
        if own_name(fuse) not in model.fusions:
            model.add_fusion(fuse)
    plan = model.plan(expression, without)
    for task in dict.fromkeys(plan.tasks):
        if task is not None and task not in model.heads:
            model.add_head(task, "classification", labels=3, pooling="first")
    return plan


def counted(plan: RunnablePlan, batch: dict[str, torch.Tensor], **options: Any) -> int:
    """FLOPs of a call; what is multiplied out once was so before."""
    call = plan if None not in plan.tasks else plan.states
    with torch.no_grad():
        call(**batch, **options)
    return flops(call, **batch, **options)


@pytest.mark.parametrize(("architecture", "text"), CASES)
def test_predicted_flops(architecture: str, text: str) -> None:
    plan = planned(loaded(architecture), text)
    decoder = TOKENS - 2 if architecture == "t5" else None
    options = {"route": ["t1", "t2", "t3"]} if "Route" in text else {}
    batch = tiny.inputs(architecture, ROWS, TOKENS, dtype=torch.float32)
    measured = counted(plan, batch, **options)
    predicted = plan.explain(ROWS, TOKENS, decoder)
    heads = 0 if None not in plan.tasks else sum(head.flops for head in predicted.heads)
    assert predicted.flops - heads == pytest.approx(measured, rel=0.01)


@pytest.mark.parametrize("text", ["Fuse('a', 'b')", "Fuse('lora', Stack('qv', 'lora'), name='k')"])
def test_the_forms_of_a_fusion(text: str) -> None:
    batch = tiny.inputs("bert", ROWS, TOKENS, dtype=torch.float32)
    model = loaded("bert")
    folded = planned(model, text)
    reference = model.plan(text, ["fold"])
    assert reference.explain(ROWS, TOKENS).flops == pytest.approx(counted(reference, batch), rel=0.01)
    assert folded.explain(ROWS, TOKENS).flops < reference.explain(ROWS, TOKENS).flops


def test_eight_adapters_share_what_lies_before_the_fork() -> None:
    model = tiny.model("bert", 12, torch.float32, attn_implementation="eager")
    batch = tiny.inputs("bert", ROWS, TOKENS, dtype=torch.float32)
    for number in range(8):
        model.add_adapter(f"t{number}", "seq_bn", bottleneck_size=4)
    text = ", ".join(f"Drop('t{number}', first=6)" for number in range(8))
    plan = planned(model, f"Parallel({text})")
    runs = []
    handles = [
        layer.register_forward_hook(lambda module, args, output: runs.append(len(args[0])))
        for layer in model.backbone.encoder.layer
    ]
    with torch.no_grad():
        plan(**batch)
    for handle in handles:
        handle.remove()
    assert runs == [ROWS] * 7 + [8 * ROWS] * 5  # branches part at the end of the first layer that differs
    found = plan.explain(ROWS, TOKENS)
    assert [(each.first, each.last, each.rows) for each in found.ranges] == [
        (0, 5, ROWS),
        (6, 6, ROWS),
        (7, 11, 8 * ROWS),
    ]
    assert found.flops == pytest.approx(counted(plan, batch), rel=0.01)
    separate = sum(counted(planned(model, f"Drop('t{number}', first=6)"), batch) for number in range(8))
    assert found.separate_flops == pytest.approx(separate, rel=0.01)
    assert found.flops < 0.65 * separate


def test_ten_tasks_of_one_adapter_cost_one_pass_and_ten_heads() -> None:
    batch = tiny.inputs("bert", ROWS, TOKENS, dtype=torch.float32)
    model = loaded("bert")
    text = ", ".join(f"t{number}='a'" for number in range(10))
    ten, one = planned(model, f"Parallel({text})"), planned(model, "'a'")
    head = 2 * ROWS * 32 * 3
    assert counted(ten, batch) == counted(one, batch) + 9 * head
    found = ten.explain(ROWS, TOKENS)
    assert found.flops == one.explain(ROWS, TOKENS).flops + 9 * head == counted(ten, batch)
    assert sum(each.flops for each in found.heads) == 10 * head


def test_tasks_that_nobody_asked_for_cost_nothing() -> None:
    model = loaded("bert")
    plan, alone = planned(model, "Parallel('a', 'b')"), planned(model, "'b'")
    assert plan.explain(ROWS, TOKENS, tasks=["b"]).flops == alone.explain(ROWS, TOKENS).flops
