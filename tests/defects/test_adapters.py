"""AdapterHub's silent wrong results, crashes and losses. Case numbers are those of the list of its defects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import compose
from compose.dsl import (
    Average,
    BatchSplit,
    Drop,
    Expression,
    Fuse,
    Parallel,
    Route,
    Split,
    Stack,
    from_json,
    own_name,
    parse,
    to_json,
    to_text,
)
from compose.io import detect
from compose.train.fit import Settings, fit
from compose.train.rows import RowGroup
from tests import tiny
from tests.defects.cases import METHODS, batch, differ, each_row_to_its_task, fusion, head, model, out, row
from tests.heads import texts
from tests.laws.worlds import close

# Silent wrong results


def test_a_scoped_parallel() -> None:
    """Case 1: a Parallel in use for a while gives each head its own rows, as an activated one does."""
    made = model(a="seq_bn", b="seq_bn")
    head(made, "a", labels=2)
    head(made, "b", labels=2)
    inputs = batch(padded=True)
    with torch.no_grad():
        with made.using(Parallel("a", "b")):
            scoped = made(**inputs)
        made.activate(Parallel("a", "b"))
        whole = made(**inputs)
        for task in ("a", "b"):
            assert scoped[task].logits.shape == (2, 2)
            assert torch.equal(scoped[task].logits, whole[task].logits)
            close(scoped[task].logits, made.plan(task)(**inputs)[task].logits)


@pytest.mark.parametrize("method", METHODS)
def test_routed_heads(method: str) -> None:
    """Case 4: each row goes to its task's head; heads differ in size, outputs are found by name."""
    made = model(a=method, b=method)
    each_row_to_its_task(made)


FEED_FORWARD = {"intermediate_lora": True, "output_lora": True}


@pytest.mark.parametrize("options", [{}, FEED_FORWARD], ids=["attention", "feed-forward"])
@pytest.mark.parametrize("architecture", tiny.CONFIGS)
def test_stacked_lora(architecture: str, options: dict[str, Any]) -> None:
    """Case 8: a fresh LoRA on top changes nothing, and stacked ones add up: W x + dW1 x + dW2 x."""
    made = model(architecture, a=("lora", options), b=("lora", {**options, "r": 4, "alpha": 4}))
    made.add_adapter("fresh", "lora", **options)
    expected = out(made, "a")
    assert torch.equal(out(made, Stack("a", "fresh")), expected)
    close(out(made, Stack("fresh", "a")), expected)
    both = made.add_adapter("both", "lora", r=12, alpha=12, **options)
    a, b = made.adapters["a"].tensors(), made.adapters["b"].tensors()
    both.load_tensors({name: torch.cat([a[name], b[name]], dim=int(name.endswith(".b"))) for name in a})
    close(out(made, Stack("a", "b")), out(made, "both"))


@pytest.mark.parametrize("architecture", tiny.CONFIGS)
def test_batch_split_of_unlike_bottlenecks(architecture: str) -> None:
    """Case 9: sequential and parallel bottlenecks side by side equal their single runs."""
    made = model(architecture, a="seq_bn", b="par_bn")
    inputs = batch(architecture, padded=True)
    found = out(made, BatchSplit("a", "b", sizes=[1, 1]), inputs)
    close(found[0], out(made, "a", inputs)[0])
    close(found[1], out(made, "b", inputs)[1])


@pytest.mark.parametrize("architecture", tiny.CONFIGS)
def test_every_site_reads_its_own_norm(architecture: str) -> None:
    """Case 12: a LayerNorm of one layer moves nothing in the layers before it."""
    made = model(architecture, a=("seq_bn", {"mh_adapter": True}))
    layers = [layer.layer for layer in made.hooks.anatomy.layers]
    seen: list[Tensor] = []
    for layer in layers:
        layer.register_forward_hook(lambda module, args, output: seen.append(output[0].clone()))
    inputs = batch(architecture)
    for index in range(1, len(layers)):
        seen.clear()
        out(made, "a", inputs)
        before = seen[:]
        for module in layers[index].modules():
            if type(module).__name__.endswith("Norm"):
                with torch.no_grad():
                    module.weight.add_(5.0)
        seen.clear()
        out(made, "a", inputs)
        assert all(torch.equal(old, new) for old, new in zip(before[:index], seen[:index], strict=True))
        assert differ(before[index], seen[index])


def test_equality_of_blocks() -> None:
    """Case 13: all children and all parameters count in a comparison; equal blocks have equal hashes."""
    different: list[tuple[Expression, Expression]] = [
        (Stack("a"), Stack("a", "b")),
        (Stack("a", "b"), Stack("b", "a")),
        (Stack("a"), Average("a")),
        (Average("a", "b", weights=[0.9, 0.1]), Average("a", "b", weights=[0.1, 0.9])),
        (Average("a", "b", weights=[2, 2]), Average("a", "b", weights=[2, 2], normalize=False)),
        (Split("a", "b", sizes=[1, 2]), Split("a", "b", sizes=[2, 1])),
        (BatchSplit("a", "b", sizes=[1, None]), BatchSplit("a", "b", sizes=[None, 1])),
        (Drop("a", first=1), Drop("a", first=2)),
        (Drop("a", first=1), Drop("a", layers=[0])),
        (Fuse("a", "b"), Fuse("a", "b", name="c")),
        (Parallel(t="a"), Parallel(u="a")),
        (Route(t="a"), Route(u="a")),
    ]
    for left, right in different:
        assert left != right and parse(to_text(left)) == left
        assert hash(parse(to_text(left))) == hash(left) and len({left, right}) == 2


def test_drop_is_part_of_the_composition(tmp_path: Path) -> None:
    """Case 14: a Drop outlives other activations, saving and loading."""
    made = model(a="seq_bn", b="seq_bn")
    dropped = Drop(Parallel("a", "b"), layers=[0])
    plan = made.plan(dropped)
    expected = out(made, dropped)
    assert differ(expected, out(made, Parallel("a", "b")))
    made.activate(dropped)
    made.activate("a")
    assert torch.equal(plan.states(**batch()).last_hidden_state, expected)
    plan.save(tmp_path / "plan")
    loaded = compose.load_plan(tmp_path / "plan", model=tiny.model())
    assert loaded.expression == dropped
    assert torch.equal(loaded.states(**batch()).last_hidden_state, expected)


# Crashes on legal-looking use


def test_labels_by_task() -> None:
    """Case 17: labels by task, some missing; the loss is the weighted sum of the single tasks' losses."""
    made = model(a="seq_bn", b="lora")
    head(made, "a", labels=2)
    head(made, "b", labels=3)
    inputs, y, z = batch(padded=True), torch.tensor([0, 1]), torch.tensor([2, 0])
    plan = made.plan(Parallel("a", "b"))
    with torch.no_grad():
        a = made.plan("a")(**inputs, labels=y).loss
        b = made.plan("b")(**inputs, labels={"b": z}).loss
        close(plan(**inputs, labels={"a": y, "b": z}).loss, a + b)
        close(plan(**inputs, labels={"a": y, "b": z}, loss_weights={"b": 0.5}).loss, a + 0.5 * b)
        close(plan(**inputs, labels={"a": y, "b": z}, loss_weights={1: 0.5}).loss, a + 0.5 * b)
        some = plan(**inputs, labels={"b": z})
    close(some.loss, b)
    assert some["a"].loss is None and plan(**inputs).loss is None


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_causal_lm_in_parallel(architecture: str) -> None:
    """Case 17: two language-model heads in one pass, both with the input for their labels."""
    made = model(architecture, a="seq_bn", b="lora")
    for name in ("a", "b"):
        head(made, name, "causal_lm")
    inputs = batch(architecture)
    ids = inputs["input_ids"]
    with torch.no_grad():
        found = made.plan(Parallel("a", "b"))(**inputs, labels={"a": ids, "b": ids})
        losses = [made.plan(name)(**inputs, labels=ids).loss for name in ("a", "b")]
    assert found["a"].logits.shape == (2, 8, tiny.VOCABULARY)
    close(found.loss, sum(losses))


def test_heads_of_unlike_sizes() -> None:
    """Case 18: outputs by name, never stacked; tagging in a BatchSplit has each slice's loss and mask."""
    made = model(a="seq_bn", b="seq_bn")
    head(made, "a", "tagging", labels=2)
    head(made, "b", "tagging", labels=3)
    inputs = batch(padded=True)
    with torch.no_grad():
        side = made.plan(Parallel("a", "b"))(**inputs)
    assert side["a"].logits.shape == (2, 8, 2) and side["b"].logits.shape == (2, 8, 3)
    labels = torch.tensor([[0, 1, 1, 0, 1, 0, 0, 1], [1, 0, 1, 1, -100, -100, -100, -100]])
    with torch.no_grad():
        found = made.plan(BatchSplit("a", "b", sizes=[1, 1]))(**inputs, labels={"a": labels, "b": labels[1:]})
        for index, name in enumerate(("a", "b")):
            alone = made.plan(name)(**row(inputs, index), labels=labels[index : index + 1])
            close(found[name].logits, alone[name].logits)
            close(found[name].loss, alone.loss)


def test_documented_calls() -> None:
    """Case 19: a Fuse of Stacks, an Average and a merger with weights, as one would write them down."""
    made = model(a="seq_bn", b="seq_bn", c="seq_bn")
    fuse = Fuse(Stack("a", "b"), Stack("a", "c"))
    fusion(made, fuse)
    assert own_name(fuse) == "b,c" and made.fusions.names == ("b,c",)
    assert differ(out(made, fuse), out(made, None))
    average = Drop(Average("a", "b", weights=[0.9, 0.1]), first=1)
    at_last = [out(made, Drop(name, first=1)) for name in ("a", "b", None)]
    close(out(made, average), out(made, Drop(Average("b", "a", weights=[1, 9]), first=1)))
    assert all(differ(out(made, average), other) for other in at_last)
    merged = compose.merge_adapters(made, ["a", "b"], "avg", weights=[0.9, 0.1]).tensors()
    a, b = made.adapters["a"].tensors(), made.adapters["b"].tensors()
    for name, tensor in merged.items():
        close(tensor, 0.9 * a[name] + 0.1 * b[name])


def test_nothing_is_lost_in_files(tmp_path: Path) -> None:
    """Case 20: a fusion's name and weights that are not normalised survive text, JSON and a saved plan."""
    made = model(a="seq_bn", b="seq_bn")
    fusion(made, Fuse("a", "b", name="myfuse"))
    for number, expression in enumerate(
        (Fuse("a", "b", name="myfuse"), Average("a", "b", weights=[2, 2], normalize=False))
    ):
        assert parse(to_text(expression)) == expression
        assert from_json(json.loads(json.dumps(to_json(expression)))) == expression
        made.plan(expression).save(tmp_path / str(number))
        loaded = compose.load_plan(tmp_path / str(number), model=tiny.model())
        assert loaded.expression == expression
        assert torch.equal(out(loaded.model, expression), out(made, expression))


# Size and hygiene


def test_one_object_in_a_file(tmp_path: Path) -> None:
    """Case 24: names that begin alike do not end up in one file."""
    made = model(a="seq_bn", b="seq_bn", c="seq_bn")
    fusion(made, Fuse("a", "b"))
    fusion(made, Fuse("a", "b", "c"))
    head(made, "sst", labels=2)
    head(made, "sst2", labels=3)
    made.save_fusion("a,b", tmp_path / "fusion")
    made.save_head("sst", tmp_path / "head")
    made.save_adapter("a", tmp_path / "adapter")
    other = tiny.model()
    assert other.load_fusion(tmp_path / "fusion") == "a,b"
    assert other.load_head(tmp_path / "head") == "sst"
    assert other.load_adapter(tmp_path / "adapter") == "a"
    for folder, module in (("fusion", made.fusions["a,b"]), ("head", made.heads["sst"])):
        size = sum(tensor.numel() * tensor.element_size() for tensor in module.tensors().values())
        [file] = (tmp_path / folder).glob("*.safetensors")
        assert size <= file.stat().st_size <= size + 200 + 150 * len(module.tensors())


def test_heads_are_saved_when_asked_for(tmp_path: Path) -> None:
    """Case 25: an adapter's folder has no head unless one is asked for, and loading replaces none."""
    made = model("gpt2", a="seq_bn")
    head(made, "a", "causal_lm")
    made.save_adapter("a", tmp_path / "without")
    made.save_adapter("a", tmp_path / "with", with_head=True)
    assert set(detect(tmp_path / "without").kinds) == {"adapter"}
    assert set(detect(tmp_path / "with").kinds) == {"adapter", "head"}
    kept = {name: tensor.clone() for name, tensor in made.heads["a"].tensors().items()}
    made.load_adapter(tmp_path / "with", name="again")
    assert made.heads.names == ("a",)
    assert all(torch.equal(kept[name], tensor) for name, tensor in made.heads["a"].tensors().items())


def test_weight_decay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Case 26: what decays: matrices, but for value matrices, which are drawn to the identity instead."""
    made = compose.attach(texts.bert(), texts.tokenizer())
    for name in ("a", "b"):
        made.add_adapter(name)
    made.add_fusion(Fuse("a", "b"))
    made.add_head("a,b", labels=2, layers=2)
    made.train_only(Fuse("a", "b"), "fusion")
    groups: list[dict[str, Any]] = []

    class Recording(torch.optim.AdamW):
        def __init__(self, given: list[dict[str, Any]], **options: Any) -> None:
            groups.extend(given)
            super().__init__(given, **options)

    monkeypatch.setattr(torch.optim, "AdamW", Recording)
    rows = ({"input_ids": [2, 5, 3], "attention_mask": [1, 1, 1], "labels": {"a,b": 0}},)
    fit(made, made.plan(Fuse("a", "b")), [RowGroup(("a,b",), rows)], Settings(epochs=1, weight_decay=0.1))
    calls = {id(parameter): name for name, parameter in made.named_parameters()}
    decayed, kept = (
        {
            calls[id(parameter)]
            for group in groups
            if bool(group["weight_decay"]) is decays
            for parameter in group["params"]
        }
        for decays in (True, False)
    )
    parts = [f"fusions.:a,b.parts.{layer}:ffn." for layer in (0, 1)]
    head_names = [f"heads.:a,b.{name}." for name in ("dense.0", "out")]
    assert decayed == {f"{part}{name}.weight" for part in parts for name in ("query", "key")} | {
        f"{name}weight" for name in head_names
    }
    assert kept == {f"{part}{name}" for part in parts for name in ("query.bias", "key.bias", "value.weight")} | {
        f"{name}bias" for name in head_names
    }


@pytest.mark.parametrize("architecture", tiny.CONFIGS)
def test_adapters_of_the_cases_act(architecture: str) -> None:
    """All cases: what they compare is far from the plain backbone, and each from the others."""
    made = model(architecture, **{method: method for method in METHODS})
    found = [out(made, name) for name in (None, *METHODS)]
    assert all(differ(left, right) for index, left in enumerate(found) for right in found[:index])
