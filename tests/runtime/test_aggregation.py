"""Layer aggregation over backbones: which states, compositions, training, files, costs, errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import compose
from compose.dsl import Average, BatchSplit, Drop, Expression, Fuse, Parallel, Route, Split, Stack
from compose.errors import CompileError, ConfigError, InputError
from compose.graph.verify import verify
from compose.methods.part import Context
from compose.methods.states import LayerStates
from compose.passes import NAMES
from compose.runtime.model import Model
from compose.train.trunk_cache import TrunkCache
from tests import tiny
from tests.heads import texts

ARCHITECTURES = ("bert", "roberta", "distilbert", "gpt2", "llama", "vit")
LAYERS = 3


def model_of(architecture: str = "bert", dtype: torch.dtype = torch.float64, **options: Any) -> Model:
    model = tiny.model(architecture, LAYERS, dtype, **options)
    made = (
        ("pos", "layer_aggregation", {"dropout": 0.0}),
        ("ner", "layer_aggregation", {"tailor": False, "leave_out": [0]}),
        ("a", "seq_bn", {"bottleneck_size": 4}),
        ("b", "lora", {"r": 2}),
    )
    for seed, (name, method, given) in enumerate(made):
        tiny.randomize(model.add_adapter(name, method, **given), seed)
    return model


def states(model: Model, expression: Expression, batch: dict[str, Tensor], **options: Any) -> Tensor:
    with torch.no_grad():
        return model.plan(expression).states(**batch, **options).last_hidden_state


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def run_layers(model: Model) -> list[int]:
    """Filled with the rows of every layer that runs."""
    seen: list[int] = []
    for layer in model.hooks.anatomy.layers:
        layer.layer.register_forward_hook(lambda module, args, output: seen.append(len(args[0])))
    return seen


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_it_reads_the_states_that_transformers_gives(architecture: str) -> None:
    """Embeddings and layers; the last is the backbone's output, so that of GPT-2 is after the final LayerNorm."""
    model, batch = model_of(architecture), tiny.inputs(architecture, padded=True)
    with torch.no_grad():
        out = model.backbone(**batch, output_hidden_states=True)
        given = (*out.hidden_states[:-1], out.last_hidden_state)
        assert len(given) == LAYERS + 1
        if architecture != "vit":  # whose own last hidden state comes before the LayerNorm
            assert torch.equal(out.hidden_states[-1], out.last_hidden_state)
        part = model.adapters["pos"].part(LAYERS, "states")
        expected = part(given[-1], Context(states=LayerStates(given, batch.get("attention_mask"))))
    assert torch.equal(states(model, "pos", batch), expected)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("without", [(), ("fork",), ("share", "group"), ("drop", "prune", "share", "fork")])
def test_branches_equal_single_runs(architecture: str, without: tuple[str, ...]) -> None:
    model, batch = model_of(architecture), tiny.inputs(architecture, padded=True)
    branches = (
        "pos",
        "ner",
        "a",
        None,
        Stack("a", "pos"),
        Stack("b", "ner"),
        Average("pos", "ner"),
        Drop("pos", last=1),
    )
    plan = model.plan(Parallel({f"t{index}": branch for index, branch in enumerate(branches)}), without)
    verify(plan.plan.graph, model.vocabulary, set(NAMES) - set(without))
    with torch.no_grad():
        found = plan.states(**batch).last_hidden_state.chunk(len(branches))
    for rows, branch in zip(found, branches, strict=True):
        close(rows, states(model, branch, batch))


def test_a_stack_aggregates_what_its_adapters_made() -> None:
    model, batch = model_of(), tiny.inputs(padded=True)
    with torch.no_grad():
        given = model.plan("a").states(**batch, output_hidden_states=True).hidden_states
    part = model.adapters["pos"].part(LAYERS, "states")
    expected = part(given[-1], Context(states=LayerStates(given, batch["attention_mask"])))
    close(states(model, Stack("a", "pos"), batch), expected)
    close(states(model, Stack("pos", "a"), batch), expected)  # places, not order, say which comes first


def test_identities() -> None:
    model, batch = model_of(), tiny.inputs(padded=True)
    plain, alone = states(model, None, batch), states(model, "pos", batch)
    close(states(model, Stack("pos"), batch), alone)
    close(states(model, Average("pos", "pos"), batch), alone)
    close(states(model, Average("pos", None, weights=[1, 3]), batch), 0.25 * alone + 0.75 * plain)
    close(states(model, Drop("pos", first=LAYERS - 1), batch), alone)
    assert torch.equal(states(model, Drop("pos", first=LAYERS), batch), plain)
    assert torch.equal(states(model, Stack(Drop("ner", first=LAYERS), "pos"), batch), alone)


@pytest.mark.parametrize("architecture", ["bert", "gpt2"])
def test_routed_rows_equal_single_rows(architecture: str) -> None:
    model, batch = model_of(architecture), tiny.inputs(architecture, rows=5, padded=True)
    route = ["pos", "a", "ner", "pos", "ner"]
    found = states(model, Route(pos="pos", a="a", ner="ner"), batch, route=route)
    for row, name in enumerate(route):
        length = int(batch["attention_mask"][row].sum())
        alone = {key: value[row : row + 1, :length] for key, value in batch.items()}
        close(found[row : row + 1, :length], states(model, name, alone))
    split = states(model, BatchSplit("pos", "ner", sizes=[2, None]), batch)
    close(split, torch.cat([states(model, "pos", batch)[:2], states(model, "ner", batch)[2:]]))


def test_a_split_aggregates_the_tokens_of_its_span() -> None:
    model, batch = model_of(), tiny.inputs()
    with torch.no_grad():
        given = model.backbone(**batch, output_hidden_states=True).hidden_states
    expected = [
        model.adapters[name].part(LAYERS, "states")(span[-1], Context(states=LayerStates(span)))
        for name, span in (("pos", [each[:, :3] for each in given]), ("ner", [each[:, 3:] for each in given]))
    ]
    close(states(model, Split("pos", "ner", sizes=[3, None]), batch), torch.cat(expected, 1))


def test_many_share_one_pass() -> None:
    """Aggregations never part from the plain backbone: each layer runs once, on the batch's rows."""
    model, batch = model_of(), tiny.inputs(rows=3)
    seen = run_layers(model)
    states(model, Parallel("pos", "ner", plain=None, again="pos"), batch)
    assert seen == [3] * LAYERS
    plan = model.plan(Parallel("pos", "ner", again="pos")).plan
    assert (plan.classes, plan.ends, plan.branches) == (1, 2, (0, 1, 0))
    text = str(model.plan(Parallel("pos", "ner")).explain())
    assert "layers 0-2: trunk, 8 rows" in text
    assert "all layers' states: trunk, 8 rows, then 2 branches, 16 rows" in text
    assert "states: pos | ner" in text and "after the layers: pos | ner" in text
    assert "layers 0-2" in model.plan("pos").explain().mermaid()
    assert "states: pos" in model.plan("pos").explain().dot()


@pytest.mark.parametrize("architecture", ["bert", "gpt2"])
def test_all_layers_are_trunk_and_need_not_run_again(architecture: str) -> None:
    """From the cache, whose padding is empty, the answers and gradients are the same, and no layer runs."""
    model, batch = model_of(architecture), tiny.inputs(architecture, rows=3, padded=True)
    labels = dict.fromkeys(("pos", "ner"), batch["input_ids"] % 2)
    for name in labels:
        tiny.randomize(model.add_head(name, "tagging", labels=2, dropout=0.0), 5)
    both = Parallel("pos", "ner")
    model.train_only(both)
    plan = model.plan(both)
    assert plan.trunk == LAYERS and model.plan(Stack("a", "pos")).trunk == 0
    cache = TrunkCache()

    def answers(**known: Any) -> dict[str, Tensor]:
        model.zero_grad()
        out = plan(**batch, labels=labels, **known)
        out.loss.backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        return {**gradients, **{name: out[name].logits.detach()[batch["attention_mask"] == 1] for name in labels}}

    expected = answers()
    seen = run_layers(model)
    cache.states(plan, batch)
    assert seen == [3] * LAYERS
    for known in (cache.states(plan, batch), plan.trunk_states(**batch)):
        seen.clear()
        found = answers(trunk_states=known)
        assert found.keys() == expected.keys() and not seen
        for name, value in found.items():
            torch.testing.assert_close(value, expected[name], rtol=1e-9, atol=1e-9, msg=name)


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "llama", "vit"])
def test_predicted_flops(architecture: str) -> None:
    model = model_of(architecture, torch.float32, attn_implementation="eager")
    batch = tiny.inputs(architecture, 4, 16, dtype=torch.float32)
    for expression in ("pos", "ner", Parallel("pos", "ner", x="a", y=None), Route(x="pos", y=Stack("a", "ner"))):
        route = {"route": ["x", "y", "x", "y"]} if isinstance(expression, Route) else {}
        plan = model.plan(expression)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            plan.states(**batch, **route)
        assert plan.explain(4, 16).flops == pytest.approx(counter.get_total_flops(), rel=0.01)
    alone = model.plan("pos").explain(4, 16)
    assert alone.flops == alone.plain.flops + alone.ranges[-1].flops


@pytest.mark.parametrize("architecture", ["bert", "gpt2"])
def test_training_with_a_tagging_head(architecture: str) -> None:
    """The loss falls, and every frozen byte, and every state of the backbone, is as it was."""
    model = tiny.model(architecture, LAYERS, torch.float32)
    torch.manual_seed(0)
    adapter = model.add_adapter("pos", "layer_aggregation", tailor=True)
    head = model.add_head("pos", "tagging", labels=["noun", "verb", "other"])
    trainable = model.train_only("pos")
    counts = [sum(p.numel() for p in module.parameters()) for module in (adapter, head)]
    assert trainable.parts == {"adapter pos": counts[0], "head pos": counts[1]}
    batch = tiny.inputs(architecture, 6, padded=True, dtype=torch.float32)
    tags = batch["input_ids"] % 3
    before = {name: p.detach().clone() for name, p in model.backbone.named_parameters()}
    plain = states(model, None, batch)
    plan = model.plan("pos")
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    model.train()
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = plan(**batch, labels={"pos": tags}).loss
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    model.eval()
    assert losses[-1] < 0.6 * losses[0]
    assert all(torch.equal(p, before[name]) for name, p in model.backbone.named_parameters())
    assert all(p.grad is None for p in model.backbone.parameters())
    assert torch.equal(states(model, None, batch), plain)


def test_several_tasks_train_on_one_pass() -> None:
    """Their gradients are those of each alone, and no layer is recorded for backward."""
    model, batch = model_of(), tiny.inputs(rows=3)
    for name in ("pos", "ner"):
        tiny.randomize(model.add_head(name, "tagging", labels=2, dropout=0.0), 5)
    labels = {"pos": batch["input_ids"] % 2, "ner": batch["input_ids"] // 2 % 2}
    both = Parallel("pos", "ner")
    model.train_only(both)

    def gradients(expression: Expression, tasks: tuple[str, ...]) -> dict[str, Tensor]:
        model.zero_grad()
        model.plan(expression)(**batch, labels={task: labels[task] for task in tasks}).loss.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    found = gradients(both, ("pos", "ner"))
    for task in ("pos", "ner"):
        for name, gradient in gradients(task, (task,)).items():
            close(found[name], gradient)
    assert not any(state.requires_grad for state in layer_outputs(model, both, batch))


def layer_outputs(model: Model, expression: Expression, batch: dict[str, Tensor]) -> list[Tensor]:
    seen: list[Tensor] = []
    handles = [
        layer.layer.register_forward_hook(
            lambda module, args, output: seen.append(output[0] if isinstance(output, tuple) else output)
        )
        for layer in model.hooks.anatomy.layers
    ]
    model.plan(expression).states(**batch)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("architecture", ["bert", "gpt2"])
def test_checkpointing_changes_nothing(architecture: str, reentrant: bool) -> None:
    model, batch = model_of(architecture), tiny.inputs(architecture, padded=True)
    expression = Parallel("pos", x=Stack("a", "pos"), y="b")
    model.train()
    model.requires_grad_(True)
    model.backbone.requires_grad_(reentrant)
    plan = model.plan(expression)

    def gradients() -> dict[str, Tensor]:
        model.zero_grad()
        found = plan.states(**batch).last_hidden_state
        (found * torch.arange(found.numel(), dtype=found.dtype).reshape(found.shape).sin()).sum().backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    expected = gradients()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    found = gradients()
    assert found.keys() == expected.keys() and any("adapters.:a" in name for name in found)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-8, atol=1e-8, msg=name)


def test_files_come_back_byte_for_byte(tmp_path: Path) -> None:
    model, batch = model_of(), tiny.inputs(padded=True)
    tiny.randomize(model.add_head("pos", "tagging", labels=3), 3)
    model.save_adapter("pos", tmp_path / "one", with_head=True)
    other = tiny.model("bert", LAYERS)
    assert other.load_adapter(tmp_path / "one", with_head=True) == "pos"
    other.save_adapter("pos", tmp_path / "two", with_head=True)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    with torch.no_grad():
        assert torch.equal(other.plan("pos")(**batch)["pos"].logits, model.plan("pos")(**batch)["pos"].logits)
    model.plan(Parallel("pos", "ner", x=Stack("a", "ner"))).save(tmp_path / "all")
    again = compose.load_plan(tmp_path / "all", model=tiny.model("bert", LAYERS))
    assert torch.equal(again.states(**batch).last_hidden_state, states(model, again.expression, batch))
    again.save(tmp_path / "again")
    assert contents(tmp_path / "all") == contents(tmp_path / "again")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_words_in_tags_out() -> None:
    backbone = texts.bert()
    model = compose.attach(backbone, texts.tokenizer())
    model.add_adapter("pos", "layer_aggregation")
    model.add_head("pos", "tagging", labels=["O", "B-place", "I-place"])
    given = ["new york, i love it", "a new love"]
    together = model.plan("pos").predict(given)
    for text, found in zip(given, together, strict=True):
        assert found["pos"] == model.plan("pos").predict([text])[0]["pos"]


def test_a_backbone_in_bf16_has_an_aggregation_in_float32() -> None:
    model = tiny.model("bert", LAYERS, torch.bfloat16)
    adapter = model.add_adapter("pos", "layer_aggregation")
    assert {p.dtype for p in adapter.parameters()} == {torch.float32}
    batch = tiny.inputs(padded=True, dtype=torch.bfloat16)
    found = states(model, "pos", batch)
    with torch.no_grad():
        given = [each.float() for each in model.backbone(**batch, output_hidden_states=True).hidden_states]
        part = adapter.part(LAYERS, "states")
        expected = part(given[-1], Context(states=LayerStates(given, batch["attention_mask"])))
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=0.01, atol=0.02)


def test_a_compiled_plan_gives_the_same() -> None:
    torch.compiler.reset()
    model, batch = model_of(dtype=torch.float32), tiny.inputs(padded=True, dtype=torch.float32)
    for name in ("pos", "ner"):
        model.add_head(name, "tagging", labels=2)
    plan = model.plan(Parallel("pos", "ner"))
    with torch.no_grad():
        expected = plan(**batch)
        found = torch.compile(plan, fullgraph=True, backend="eager")(**batch)
    for task in ("pos", "ner"):
        torch.testing.assert_close(found[task].logits, expected[task].logits)


def test_what_cannot_be_composed_is_refused() -> None:
    model = model_of()
    with pytest.raises(CompileError, match="'pos' cannot be fused"):
        model.add_fusion(Fuse("pos", "a"))
    with pytest.raises(CompileError) as caught:
        model.plan(Fuse("pos", "ner", name="f"))
    assert "layer_aggregation has no increment" in str(caught.value)
    with pytest.raises(CompileError) as caught:
        model.plan(Stack("a", Average("pos", None), "ner"))
    assert "two children of this Stack aggregate the layers" in str(caught.value)
    assert "Parallel or Average" in str(caught.value)
    with pytest.raises(ConfigError, match="encoder-decoder"):
        tiny.model("t5").add_adapter("pos", "layer_aggregation")


def test_heads_that_read_something_else_are_refused() -> None:
    model, batch = model_of("gpt2"), tiny.inputs("gpt2")
    model.add_head("pos", "causal_lm")
    with pytest.raises(ConfigError, match="each token see all others"):
        model.plan("pos")(**batch)
    assert model.plan(Parallel(pos=None, x="ner"))(**batch, tasks=["pos"])["pos"].logits.isfinite().all()
    model, batch = model_of(), tiny.inputs()
    model.add_head("pos", "classification", labels=2, use_pooler=True)
    with pytest.raises(ConfigError, match="pooled output"):
        model.plan("pos")(**batch)


def test_a_pooled_output_goes_to_the_branches_that_it_belongs_to() -> None:
    model, batch = model_of(), tiny.inputs()
    for seed, name in enumerate(("x", "y")):
        tiny.randomize(model.add_head(name, "classification", labels=2, use_pooler=True), seed)
    model.add_head("pos", "tagging", labels=2)
    with torch.no_grad():
        together = model.plan(Parallel("pos", x="a", y=None))(**batch)
        close(together["x"].logits, model.plan(Parallel(x="a"))(**batch)["x"].logits)
        close(together["y"].logits, model.plan(Parallel(y=None))(**batch)["y"].logits)


def test_a_mask_must_say_which_tokens_are_there() -> None:
    model, batch = model_of(), tiny.inputs()
    tokens = batch["input_ids"].shape[1]
    mask = torch.zeros(3, 1, tokens, tokens, dtype=torch.float64)
    with pytest.raises(InputError):
        model.plan("pos").states(**batch, attention_mask=mask)
