"""PEFT's defects. Case numbers are those of the list of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import compose
from compose.dsl import Average, BatchSplit, Fuse, Parallel, Route, Stack
from compose.methods.presets import PRESETS
from compose.runtime.model import Model
from tests import tiny
from tests.defects.cases import EVERY, METHODS, TEXT, batch, differ, fusion, head, model, out, row
from tests.laws.worlds import close


def gradients(made: Model, loss: Tensor) -> dict[str, Tensor]:
    """The gradient of every weight that the loss depends on."""
    named = [(name, p) for name, p in made.named_parameters() if p.requires_grad]
    found = torch.autograd.grad(loss, [p for _, p in named], allow_unused=True)
    return {name: gradient for (name, _), gradient in zip(named, found, strict=True) if gradient is not None}


TRAINED: tuple[tuple[Any, Any], ...] = (
    ("lora", "lora"),
    ("seq_bn", "seq_bn"),
    ("lora", "double_seq_bn"),
    ("dora", "dora"),
    ("vera", "ia3"),
    (("loreft", {"dropout": 0.0}), "bitfit"),
    (EVERY["prefix_tuning"], EVERY["prompt_tuning"]),
)


@pytest.mark.parametrize("architecture", TEXT)
@pytest.mark.parametrize("methods", TRAINED, ids=str)
def test_mixed_batches_in_training(methods: tuple[Any, Any], architecture: str) -> None:
    """Cases P2 and P3: forward and backward per row; the gradients are those of separate batches."""
    made = model(architecture, a=methods[0], b=methods[1])
    head(made, "a", labels=2, pooling="mean", dropout=0)
    head(made, "b", labels=3, pooling="mean", dropout=0)
    made.train()
    inputs, labels = batch(architecture, padded=True), {"a": torch.tensor([1]), "b": torch.tensor([2])}
    expressions: list[tuple[Any, dict[str, Any]]] = [
        (Route(a="a", b="b"), {"route": ["b", "a"]}),
        (BatchSplit("b", "a", sizes=[1, 1]), {}),
    ]
    for expression, route in expressions:
        made.train_only(expression, "full+adapters")
        found = gradients(made, made.plan(expression)(**inputs, labels=labels, **route).loss)
        separate: dict[str, Tensor] = {}
        for index, name in enumerate(("b", "a")):
            loss = made.plan(name)(**row(inputs, index), labels=labels[name]).loss
            for weight, gradient in gradients(made, loss).items():
                separate[weight] = separate.get(weight, torch.zeros(())) + gradient
        trained = {weight for weight in separate if separate[weight].abs().max() > 0}
        assert trained <= found.keys() and any(".:b." in weight for weight in trained)
        # RMSNorm squares its input in float32, whatever the backbone's type.
        tolerance = 1e-6 if architecture in ("t5", "llama") else 1e-9
        for weight in found:
            close(found[weight], separate[weight], tolerance)


def test_heads_of_different_size_at_once() -> None:
    """P4: each task has a head of its own, several are active at once, and both are trained."""
    made = model(a="lora", b="lora")
    head(made, "a", labels=2)
    head(made, "b", labels=7)
    made.train_only(Parallel("a", "b"))
    found = made.plan(Parallel("a", "b"))(**batch(), labels={"a": [0, 1], "b": [6, 3]})
    assert found["a"].logits.shape == (2, 2) and found["b"].logits.shape == (2, 7)
    changed = gradients(made, found.loss)
    assert {"heads.:a.out.weight", "heads.:b.out.weight"} <= changed.keys()


def test_one_call_for_several_adapters() -> None:
    """P5: one documented call makes several active, side by side or one after the other, by text as well."""
    made = model(a="lora", b="lora")
    for name in ("a", "b"):
        head(made, name, labels=2)
    for expression in (Parallel("a", "b"), Stack("a", "b")):
        made.activate(expression)
        expected = made(**batch())
        made.activate(repr(expression))
        found = made(**batch())
        assert all(torch.equal(x.logits, y.logits) for x, y in zip(found, expected, strict=True))
    assert differ(out(made, Stack("a", "b")), out(made, "a"))


@pytest.mark.parametrize("architecture", tiny.CONFIGS)
def test_presets_need_no_arguments(architecture: str) -> None:
    """P8: every preset works as it is on every architecture."""
    made = tiny.model(architecture)
    inputs = batch(architecture)
    plain = out(made, None, inputs)
    for seed, preset in enumerate(PRESETS):
        if made.spec.encoder_decoder and preset == "layer_aggregation":
            continue  # its two stacks have tokens of their own
        tiny.randomize(made.add_adapter(f"a{seed}", preset), seed)
        found = out(made, f"a{seed}", inputs)
        assert differ(found[:, -plain.shape[1] :], plain), preset  # prompts stand before the text


def test_merging_adapters_that_have_heads() -> None:
    """Case P7: adapters are merged by weights whatever heads they have; which heads go on is said."""
    made = model(a="lora", b="lora")
    head(made, "a", labels=["x", "y"])
    head(made, "b", labels=["x", "y"])
    inputs = batch(padded=True)
    options: dict[str, Any] = {"kind": "concat", "weights": [0.75, 0.25]}
    compose.merge_adapters(made, ["a", "b"], "m", **options)
    assert made.heads.names == ("a", "b")
    with torch.no_grad():
        average = Average("a", "b", weights=[3, 1])
        kept, expected = (made.plan(Parallel(a=each, b=each))(**inputs) for each in ("m", average))
        for task in ("a", "b"):
            close(kept[task].logits, expected[task].logits)
        compose.merge_adapters(made, ["a", "b"], "both", with_heads=True, **options)
        close(made.plan("both")(**inputs)["both"].logits, 0.75 * kept["a"].logits + 0.25 * kept["b"].logits)


def test_entries_twice_over(tmp_path: Path) -> None:
    """Case P10: what PEFT writes twice is read, and written once."""
    made = model(a="lora")
    head(made, "a", labels=3, use_pooler=True)
    made.save_adapter("a", tmp_path / "once", with_head=True, format="peft")
    path = tmp_path / "once" / "adapter_config.json"
    config = json.loads(path.read_text())
    names = ("modules_to_save", "target_modules")
    path.write_text(json.dumps({**config, **{name: config[name] * 2 for name in names}}))
    other = tiny.model()
    other.load_adapter(tmp_path / "once", name="a", with_head=True)
    with torch.no_grad():
        assert torch.equal(made.plan("a")(**batch())["a"].logits, other.plan("a")(**batch())["a"].logits)
    other.save_adapter("a", tmp_path / "again", with_head=True, format="peft")
    again = json.loads((tmp_path / "again" / "adapter_config.json").read_text())
    assert all(again[name] == config[name] and len(set(again[name])) == len(again[name]) for name in names)


SITES = {
    "lora": {"attn.q", "attn.v"},
    "seq_bn": {"ffn"},
    "double_seq_bn": {"attn", "ffn"},
    "par_bn": {"ffn"},
    "ia3": {"attn.k", "attn.v", "ffn.in"},
    "dora": {"attn.q", "attn.v"},
    "loreft": {"layer"},
}


@pytest.mark.parametrize("architecture", tiny.CONFIGS)
@pytest.mark.parametrize("method", SITES)
def test_sites_are_explicit(method: str, architecture: str) -> None:
    """P9: an adapter acts at the sites that it names, at no others, and the plan says which."""
    made = model(architecture, a=method)
    expected = set(SITES[method])
    if architecture == "t5":
        expected |= {f"cross.{site}" for site in expected if site.startswith("attn.")}
    plan = made.plan("a")
    assert {site for _, site in plan.plan.programs} == expected
    assert {site for _, site in made.adapters.specs["a"].by_site} == expected
    text = str(plan.explain(rows=2, tokens=8))
    listed = {line.split(":")[0].strip() for line in text.splitlines() if line.endswith(": a")}
    assert listed == expected, text


@pytest.mark.parametrize("method", METHODS)
def test_the_second_adapter_trains(method: str) -> None:
    """P11: all adapters that are active are trained, in whatever block, and one step moves all of them."""
    made = model(a=method, b=method, c=method)
    fusion(made, Fuse("a", "b"))
    for expression in (Parallel("a", "b"), Stack("a", "b"), Fuse("a", "b"), BatchSplit("a", "b", sizes=[1, 1])):
        trainable = made.train_only(expression)
        assert {"adapter a", "adapter b"} <= trainable.parts.keys() and "adapter c" not in trainable.parts
        loss = made.plan(expression).states(**batch()).last_hidden_state.square().sum()
        moved = {name for name, gradient in gradients(made, loss).items() if gradient.abs().max() > 0}
        for name in ("a", "b"):
            own = {f"adapters.:{name}.{weight}" for weight, _ in made.adapters[name].named_parameters()}
            assert own <= moved, f"{expression}: {sorted(own - moved)}"
        assert not any(name.startswith("adapters.:c.") for name in moved)


@pytest.mark.parametrize("method", METHODS)
def test_siblings_run_together(method: str) -> None:
    """P11: adapters of one shape run as one grouped product; a mixed batch costs what one adapter costs."""
    made = model(**dict.fromkeys("abcd", method))
    plan = made.plan(Parallel(*"abcd")).plan
    steps = [step for program in plan.programs.values() for step in program.steps]
    assert steps and all(len(step.operations) == 4 for step in steps)

    def flops(expression: Any, **route: Any) -> int:
        out(made, expression, **route)
        with FlopCounterMode(display=False) as counter:
            out(made, expression, **route)
        return int(counter.get_total_flops())

    assert flops(Route({name: name for name in "abcd"}), route=["c", "a"]) == flops("a")
