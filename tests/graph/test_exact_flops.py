"""FLOPs of the main cases as exact numbers, so that a regression shows without a clock."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel, BertConfig

from compose.backbones.resolve import resolve
from compose.compile import Options, compile_plan
from compose.dsl import Drop, Expression, Fuse, Parallel, fuses, own_name, parse
from compose.explain import Explanation, explain
from compose.graph.check import fusion_sites
from compose.graph.sites import Vocabulary
from compose.methods.registry import make_config
from compose.runtime import apart
from compose.specs import BackboneSpec, FusionSpec, HeadSpec
from tests import tiny
from tests.graph.test_flops import counted, planned

NAMES = [f"a{number}" for number in range(8)]
BARE = ", ".join(f"'{name}'" for name in NAMES)
DROPPED = ", ".join(f"Drop('{name}', first=6)" for name in NAMES)
TEN = ", ".join(f"t{number}='a0'" for number in range(10))

BERT_BASE = {
    "None": 178_787_450_880,
    "'a0'": 180_599_427_072,
    f"Stack({BARE})": 193_283_002_368,
    f"Fuse({BARE})": 200_832_749_568,
    f"Parallel({BARE})": 1_340_508_241_920,
    f"Parallel({DROPPED})": 707_537_436_672,
    f"Parallel({TEN})": 180_599_758_848,
}
"""BERT-base from its config alone, seq_bn with reduction 16, heads of three labels, 8 rows of 128 tokens."""


@cache
def bert_base() -> BackboneSpec:
    with torch.device("meta"):
        return resolve(AutoModel.from_config(BertConfig())).spec


def explained(text: str, **options: Any) -> Explanation:
    expression: Expression = parse(text)
    spec = bert_base()
    words = Vocabulary(spec, {name: make_config("seq_bn").describe(name, spec) for name in NAMES}, {})
    fusions = {own_name(fuse) or "": fusion_sites(fuse, words) for fuse in fuses(expression)}
    words = Vocabulary(spec, words.adapters, {name: FusionSpec(name, sites) for name, sites in fusions.items()})
    plan = compile_plan(expression, words, Options(**options))
    heads = {
        output.head: HeadSpec(output.head, "classification", row_multiplies=768 * 3)
        for output in plan.outputs
        if output.head
    }
    return explain(plan, words, heads, 8, 128)


@pytest.mark.parametrize("text", BERT_BASE)
def test_bert_base(text: str) -> None:
    assert explained(text).flops == BERT_BASE[text]


def test_bert_base_by_hand() -> None:
    width, tokens, rows = 768, 128, 8
    a_layer = 12 * width * width + 2 * tokens * width
    pooler = 2 * rows * width * width
    assert BERT_BASE["None"] == 2 * rows * tokens * 12 * a_layer + pooler
    head = 2 * rows * width * 3
    # Folded, a fusion is three products: all children down, their scores, their mixture; a column each for biases.
    down, column = 8 * 48, 8 * (48 + 1)
    one = 2 * rows * tokens * 12 * width * (down + 2 * column)
    assert BERT_BASE[f"Fuse({BARE})"] - BERT_BASE["None"] == one + head
    assert BERT_BASE[f"Parallel({TEN})"] - BERT_BASE["'a0'"] == 9 * head


def test_fusion_in_training_and_as_written() -> None:
    text = f"Fuse({BARE})"
    assert explained(text, training=True).flops == 217_479_942_144
    assert explained(text, without=frozenset({"fold"})).flops == 440_008_740_864


MEASURED = {
    "None": 10_622_976,
    "'a0'": 10_918_464,
    f"Fuse({BARE})": 14_752_320,
    f"Parallel({BARE})": 81_154_560,
    f"Parallel({DROPPED})": 42_816_000,
    f"Parallel({TEN})": 10_923_648,
}
"""What torch counts on a BERT of 12 layers of width 32, adapters of rank 4, 3 rows of 16 tokens."""


def test_what_torch_counts() -> None:
    model = tiny.model("bert", 12, torch.float32, attn_implementation="eager")
    for name in NAMES:
        model.add_adapter(name, "seq_bn", bottleneck_size=4)
    batch = tiny.inputs("bert", 3, 16, dtype=torch.float32)
    plans = {text: planned(model, text) for text in MEASURED}
    assert {text: counted(plan, batch) for text, plan in plans.items()} == MEASURED
    assert {text: plan.explain(3, 16).flops for text, plan in plans.items()} == MEASURED


STEPS = {
    "whole": 172_283_520,
    "apart": 93_431_424,
}
"""A step over Parallel of 8 that trains one of them, its rows with the others' and apart from them."""


def test_a_step_over_branches_of_which_one_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Apart, backward has one branch's rows; all together the rows of eight."""
    model = tiny.model("bert", 12, torch.float32, attn_implementation="eager")
    for name in NAMES:
        model.add_adapter(name, "seq_bn", bottleneck_size=4)
        model.add_head(name, labels=3, pooling="first")
    model.train_only("a0")
    plan, batch = model.plan(Parallel(*NAMES)), tiny.inputs("bert", 3, 16, dtype=torch.float32)
    found = {}
    for way, saves in (("apart", apart.saves), ("whole", lambda *_: False)):
        monkeypatch.setattr(apart, "saves", saves)
        with FlopCounterMode(display=False) as counter:
            plan(**batch, labels={"a0": torch.tensor([0, 1, 2])}).loss.backward()
        found[way] = counter.get_total_flops()
    assert found == STEPS


TRAINED = {
    "one adapter": 22_310_592,
    "Fuse of 8": 39_397_056,
    "Fuse of 8, checkpointing": 57_122_496,
    "Drop(first=6)": 15_969_984,
    "Drop(first=6), cached": 10_661_568,
    "layer aggregation": 11_819_520,
    "layer aggregation, cached": 1_202_688,
}
"""A step of training on the same BERT: forward and backward of what is trained, and no more."""


def test_steps_of_training() -> None:
    model = tiny.model("bert", 12, torch.float32, attn_implementation="eager")
    for name in NAMES:
        model.add_adapter(name, "seq_bn", bottleneck_size=4)
    fuse = Fuse(*NAMES, name="fused")
    model.add_fusion(fuse)
    model.add_adapter("layers", "layer_aggregation")
    for name in ("a0", "fused"):
        model.add_head(name, labels=3, pooling="first")
    model.add_head("layers", "tagging", labels=3)
    batch = tiny.inputs("bert", 3, 16, dtype=torch.float32)
    row, token = torch.tensor([0, 1, 2]), torch.zeros((3, 16), dtype=torch.long)
    dropped = Drop("a0", first=6)
    steps: tuple[tuple[str, Expression, Any, torch.Tensor], ...] = (
        ("one adapter", "a0", "adapters", row),
        ("Fuse of 8", fuse, "fusion", row),
        ("Fuse of 8, checkpointing", fuse, "fusion", row),
        ("Drop(first=6)", dropped, "adapters", row),
        ("Drop(first=6), cached", dropped, "adapters", row),
        ("layer aggregation", "layers", "adapters", token),
        ("layer aggregation, cached", "layers", "adapters", token),
    )
    found = {}
    for name, expression, regime, labels in steps:
        model.train_only(expression, regime)
        model.train()
        if "checkpointing" in name:
            model.gradient_checkpointing_enable()
        plan = model.plan(expression)
        given = {"trunk_states": plan.trunk_states(**batch)} if "cached" in name else {}
        with FlopCounterMode(display=False) as counter:
            plan(**batch, labels=labels, **given).loss.backward()
        found[name] = counter.get_total_flops()
        model.gradient_checkpointing_disable()
    assert found == TRAINED
    assert found["Drop(first=6), cached"] < 0.7 * found["Drop(first=6)"] < 0.6 * found["one adapter"]
