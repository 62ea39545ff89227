"""What plans give back: states by branch, hidden states, attentions, caches, tasks, fusion weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import compose
from compose.dsl import Average, BatchSplit, Drop, Expression, Fuse, Parallel, Route, Split, Stack
from compose.errors import InputError, RegistryError
from compose.heads.output import MultiHeadOutput
from compose.runtime.model import Model
from tests import tiny

ARCHITECTURES = tuple(tiny.CONFIGS)
LAYERS = 3
HIDDEN = {"t5": ("encoder_hidden_states", "decoder_hidden_states")}
ATTENTIONS = {"t5": ("encoder_attentions", "decoder_attentions", "cross_attentions")}


def model_of(architecture: str = "bert", layers: int = LAYERS, **options: Any) -> Model:
    return fill(tiny.model(architecture, layers, **options))


def fill(model: Model) -> Model:
    """Adapters and a fusion, their weights random."""
    for seed, (name, preset) in enumerate((("a", "seq_bn"), ("b", "double_seq_bn"), ("c", "par_bn"), ("lora", "lora"))):
        tiny.randomize(model.add_adapter(name, preset), seed)
    tiny.randomize(model.add_fusion(Fuse("a", "b")), 7, 0.2)
    return model


def states(model: Model, expression: Expression, inputs: dict[str, Tensor], **options: Any) -> Any:
    with torch.no_grad():
        return model.plan(expression).states(**inputs, **options)


@contextlib.contextmanager
def layer_outputs(model: Model) -> Iterator[list[Tensor]]:
    """What each layer hands on: hooks registered after all others see what these have made of it."""
    found: list[Tensor] = []
    handles = [
        each.layer.register_forward_hook(
            lambda module, args, output: found.append(output[0] if isinstance(output, tuple) else output)
        )
        for each in model.hooks.anatomy.layers
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


# hidden states and attentions


@pytest.mark.parametrize("captured_before", [False, True], ids=["attached_first", "captured_first"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_hidden_states(architecture: str, captured_before: bool) -> None:
    """Transformers records them with hooks of its own, put in place at the first call that asks."""
    backbone = tiny.backbone(architecture, LAYERS)
    inputs = tiny.inputs(architecture, padded=True)
    twin = tiny.backbone(architecture, LAYERS)  # its hooks do not count
    with torch.no_grad():
        plain = (backbone if captured_before else twin)(**inputs, output_hidden_states=True)
    model = fill(compose.attach(backbone))
    unadapted = states(model, None, inputs, output_hidden_states=True)
    with layer_outputs(model) as handed_on:
        adapted = states(model, Drop(Stack("a", "lora"), first=1), inputs, output_hidden_states=True)
    for name in HIDDEN.get(architecture, ("hidden_states",)):
        assert len(adapted[name]) == len(unadapted[name]) == len(plain[name]) == LAYERS + 1
        assert all(torch.equal(*pair) for pair in zip(unadapted[name], plain[name], strict=True))
        if name == "decoder_hidden_states":
            handed_on = handed_on[LAYERS:]
        else:
            assert torch.equal(adapted[name][1], plain[name][1])  # dropped from the first layer
            assert not torch.allclose(adapted[name][2], plain[name][2])
        for index in range(1, LAYERS):
            assert torch.equal(adapted[name][index], handed_on[index - 1])
    last = HIDDEN.get(architecture, ("hidden_states",))[-1]
    if architecture != "vit":  # whose last LayerNorm comes after the hidden states
        assert torch.equal(adapted[last][-1], adapted.last_hidden_state)


def test_hidden_states_of_branches() -> None:
    """Those of the trunk have its rows, those past the fork all branches' rows."""
    model, inputs = model_of(), tiny.inputs(padded=True)
    late = [Drop(name, first=2) for name in ("a", "b")]
    found = states(model, Parallel(*late), inputs, output_hidden_states=True)
    assert [len(each) for each in found.hidden_states] == [3, 3, 3, 6]
    singles = [states(model, each, inputs, output_hidden_states=True) for each in late]
    for index in range(LAYERS):
        assert torch.equal(found.hidden_states[index], singles[0].hidden_states[index])
    torch.testing.assert_close(found.hidden_states[-1], torch.cat([each.hidden_states[-1] for each in singles]))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_attentions(architecture: str) -> None:
    model = model_of(architecture, attn_implementation="eager")
    inputs = tiny.inputs(architecture, padded=True)
    with torch.no_grad():
        plain = tiny.backbone(architecture, LAYERS, attn_implementation="eager")(**inputs, output_attentions=True)
    for name in ATTENTIONS.get(architecture, ("attentions",)):
        unadapted = states(model, None, inputs, output_attentions=True)[name]
        adapted = states(model, "lora", inputs, output_attentions=True)[name]
        assert len(adapted) == len(unadapted) == len(plain[name]) == LAYERS
        assert all(torch.equal(*pair) for pair in zip(unadapted, plain[name], strict=True))
        assert [each.shape for each in adapted] == [each.shape for each in plain[name]]
        assert not torch.allclose(adapted[-1], plain[name][-1])
    parallel = states(model, Parallel("lora", "b"), inputs, output_attentions=True)
    name = ATTENTIONS.get(architecture, ("attentions",))[0]
    torch.testing.assert_close(parallel[name][-1][:3], states(model, "lora", inputs, output_attentions=True)[name][-1])


@pytest.mark.parametrize("padded", [False, True], ids=["unpadded", "padded"])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_attention_implementations(architecture: str, implementation: str, padded: bool) -> None:
    """Masks have other shapes, or none at all."""
    if implementation == "sdpa" and not tiny.backbone(architecture)._supports_sdpa:
        pytest.skip("T5 has no SDPA in older versions of transformers")
    model = model_of(architecture, attn_implementation=implementation)
    inputs = tiny.inputs(architecture, padded=padded)
    children: tuple[Expression, ...] = ("lora", Drop("b", first=1), Fuse("a", "b"), None)
    found = states(model, Parallel(*children), inputs).last_hidden_state
    expected = torch.cat([states(model, child, inputs).last_hidden_state for child in children])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


# caches

CACHED: tuple[Expression, ...] = (
    None,
    Stack("lora", "b"),
    Parallel("lora", "c"),
    Parallel(Drop("b", first=1), Drop("lora", first=2), None),
    Parallel(Fuse("a", "b"), lora="lora"),
)


@pytest.mark.parametrize("expression", CACHED, ids=str)
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_caches(architecture: str, expression: Expression) -> None:
    """A prompt, then its continuation in two steps: what the whole gives at once."""
    model = model_of(architecture)
    ids = tiny.inputs(architecture, tokens=8)["input_ids"]
    whole = states(model, expression, {"input_ids": ids}, use_cache=False).last_hidden_state
    cached = states(model, expression, {"input_ids": ids}, use_cache=True)
    assert torch.equal(cached.last_hidden_state, whole)
    cache, pieces = None, []
    for start, end in ((0, 5), (5, 6), (6, 8)):
        step = states(model, expression, {"input_ids": ids[:, start:end]}, past_key_values=cache, use_cache=True)
        cache = step.past_key_values
        pieces.append(step.last_hidden_state)
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("expression", CACHED, ids=str)
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_caches_of_padded_prompts(architecture: str, expression: Expression) -> None:
    """Padded on the left, as for generation."""
    model = model_of(architecture)
    ids = tiny.inputs(architecture, tokens=7)["input_ids"]
    mask = torch.ones_like(ids)
    mask[1, :2] = 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    batch = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
    whole = states(model, expression, batch).last_hidden_state
    first = {name: tensor[:, :5] for name, tensor in batch.items()}
    rest = {"input_ids": ids[:, 5:], "attention_mask": mask, "position_ids": positions[:, 5:]}
    prompt = states(model, expression, first, use_cache=True)
    found = states(model, expression, rest, past_key_values=prompt.past_key_values, use_cache=True)
    torch.testing.assert_close(found.last_hidden_state, whole[:, 5:], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "expression", [*CACHED, Parallel(Drop("b", first=LAYERS + 1), Drop("lora", first=LAYERS))], ids=str
)
def test_caches_of_an_encoder_decoder(expression: Expression) -> None:
    """With branches that part in the encoder, or in the decoder."""
    model, inputs = model_of("t5"), tiny.inputs("t5", tokens=8, padded=True)
    whole = states(model, expression, inputs).last_hidden_state
    ids = inputs.pop("decoder_input_ids")
    prompt = states(model, expression, {**inputs, "decoder_input_ids": ids[:, :3]}, use_cache=True)
    rest = {**inputs, "decoder_input_ids": ids[:, 3:], "past_key_values": prompt.past_key_values}
    found = states(model, expression, rest).last_hidden_state
    torch.testing.assert_close(found, whole[:, 3:], rtol=1e-9, atol=1e-9)


# branches


def test_one_block_of_rows_for_each_branch() -> None:
    """Branches that never part, and so are computed once, among them."""
    model, inputs = model_of(), tiny.inputs(padded=True)
    children: tuple[Expression, ...] = ("a", None, Stack("a"), Drop("a", first=0), Drop("b", last=LAYERS), "b")
    plan = model.plan(Parallel(*children, t1="a", t2="lora"))
    found = plan.states(**inputs)
    assert found.last_hidden_state.shape == (8 * 3, 7, 32)
    assert found.pooler_output.shape == (8 * 3, 32)
    for child, rows, pooled in zip(
        (*children, "a", "lora"), found.last_hidden_state.chunk(8), found.pooler_output.chunk(8), strict=True
    ):
        expected = states(model, child, inputs)
        torch.testing.assert_close(rows, expected.last_hidden_state)
        torch.testing.assert_close(pooled, expected.pooler_output)
    assert model.plan(Parallel(t1="a", t2="a")).states(**inputs).last_hidden_state.shape[0] == 6


def test_batch_split_gives_one_output_for_each_child() -> None:
    model, inputs = model_of(), tiny.inputs(rows=6, padded=True)
    for name, labels in (("a", 2), ("lora", 3), ("a,b", 4)):
        tiny.randomize(model.add_head(name, labels=labels), labels)
    plan = model.plan(BatchSplit("a", Fuse("a", "b"), "lora", sizes=[1, None, 2]))
    with torch.no_grad():
        out = plan(**inputs, labels={"lora": torch.tensor([2, 0])})
        assert list(out.keys()) == ["a", "a,b", "lora"]
        assert [each.rows.tolist() for each in out] == [[0], [1, 2, 3], [4, 5]]
        for name, each in out.items():
            whole = model.plan(Fuse("a", "b") if "," in name else name)(**inputs)
            torch.testing.assert_close(each.logits, whole[name].logits[each.rows])
        of_all = plan(**inputs, labels={"lora": torch.tensor([-100] * 4 + [2, 0])})
    assert out.loss == out["lora"].loss == of_all["lora"].loss and out["a"].loss is None


# tasks


@pytest.fixture(scope="module")
def tasked() -> Model:
    model = model_of()
    for name, labels in (("nli", ["entailment", "neutral", "contradiction"]), ("both", 2), ("lora", 2)):
        tiny.randomize(model.add_head(name, labels=labels, dropout=0.0), 3)
    return model


TASKED = Parallel(nli="a", both=Fuse("a", "b"), lora="lora")


def test_outputs_by_task_and_by_position(tasked: Model) -> None:
    out = tasked.plan(TASKED)(**tiny.inputs())
    assert isinstance(out, MultiHeadOutput) and isinstance(out, dict)
    nli, both, lora = out
    assert out["nli"] is nli is out[0] and out[1] is both and out[-1] is lora
    assert len(out) == 3 and list(out.keys()) == ["nli", "both", "lora"]
    assert list(out.values()) == [nli, both, lora] and list(out.items())[1] == ("both", both)
    assert nli.logits.shape == (3, 3) and both.logits.shape == (3, 2)
    assert out.loss is None and nli.loss is None and "loss" not in out
    with pytest.raises(KeyError, match="no labels"):
        out["loss"]
    with pytest.raises(KeyError, match="'nli'"):
        out["nil"]


def test_losses_by_task(tasked: Model) -> None:
    plan, inputs = tasked.plan(TASKED), tiny.inputs()
    labels = {"nli": torch.tensor([0, 2, 1]), "both": torch.tensor([1, 0, 1])}
    out = plan(**inputs, labels=labels)
    assert out["lora"].loss is None and out["loss"] is out.loss
    for task, answers in labels.items():
        expected = torch.nn.functional.cross_entropy(out[task].logits, answers)
        torch.testing.assert_close(out[task].loss, expected)
    torch.testing.assert_close(out.loss, out["nli"].loss + out["both"].loss)
    weighted = plan(**inputs, labels=labels, loss_weights={"both": 0.5})
    torch.testing.assert_close(weighted.loss, out["nli"].loss + 0.5 * out["both"].loss)
    torch.testing.assert_close(weighted["both"].loss, out["both"].loss)
    by_name = plan(**inputs, labels={"nli": ["entailment", "contradiction", "neutral"]})
    torch.testing.assert_close(by_name.loss, out["nli"].loss)
    single = tasked.plan(Parallel(nli="a"))(**inputs, labels=labels["nli"])
    torch.testing.assert_close(single.loss, out["nli"].loss)


def test_branches_without_names(tasked: Model) -> None:
    plan = tasked.plan(Parallel(None, Average("a", "b"), "lora"))
    assert plan.tasks == (None, None, "lora")
    with pytest.raises(RegistryError, match="no name"):
        plan(**tiny.inputs())
    assert list(plan(**tiny.inputs(), tasks=["lora"]).keys()) == ["lora"]
    assert list(plan(**tiny.inputs(), tasks=[-1]).keys()) == ["lora"]


def test_the_active_plan(tasked: Model) -> None:
    inputs = tiny.inputs()
    expected = tasked.plan(TASKED)(**inputs)
    tasked.activate(TASKED)
    assert torch.equal(tasked(**inputs)["both"].logits, expected["both"].logits)
    tasked.activate(str(TASKED))
    with tasked.using("lora") as plan:
        assert torch.equal(tasked(**inputs)["lora"].logits, plan(**inputs)["lora"].logits)
        assert len(tasked(**inputs)) == 1
        with tasked.using(Parallel("lora", nli="a")):
            assert list(tasked(**inputs).keys()) == ["lora", "nli"]
        assert list(tasked(**inputs).keys()) == ["lora"]
    assert list(tasked(**inputs).keys()) == ["nli", "both", "lora"]
    tasked.activate(None)
    with pytest.raises(RegistryError):
        tasked(**inputs)


def flops(call: Any, inputs: dict[str, Tensor], **options: Any) -> int:
    """FLOPs of a call, the second one: what is multiplied out once was so before."""
    with torch.no_grad():
        call(**inputs, **options)
        with FlopCounterMode(display=False) as counter:
            call(**inputs, **options)
    return int(counter.get_total_flops())


def test_fewer_tasks_cost_less() -> None:
    model = model_of(attn_implementation="eager")
    for name in ("nli", "both", "lora"):
        model.add_head(name, labels=2)
    plan, inputs = model.plan(TASKED), tiny.inputs()
    whole = flops(plan, inputs)
    for task, alone in (("nli", Parallel(nli="a")), ("both", Parallel(both=Fuse("a", "b"))), ("lora", "lora")):
        assert flops(plan, inputs, tasks=[task]) == flops(model.plan(alone), inputs) < 0.5 * whole
    assert flops(plan, inputs, tasks=["nli", "lora"]) < whole
    late = model.plan(Parallel(nli=Drop("a", first=2), lora=Drop("lora", first=2)))
    assert flops(late, inputs) < 0.8 * flops(model.plan(Parallel(nli="a", lora="lora")), inputs)


# fusions


def test_fusion_attention() -> None:
    model, inputs = model_of(), tiny.inputs(padded=True)
    plan = model.plan(Fuse("a", "b"))
    found = plan.fusion_attention(**inputs)
    assert list(found) == ["a,b"] and list(found["a,b"]) == list(range(LAYERS))
    for sites in found["a,b"].values():
        assert set(sites) == {"attn", "ffn"}  # `a` acts after ffn alone
        assert sites["ffn"].shape == (3, 7, 2) and sites["attn"].shape == (3, 7, 1)
        for weights in sites.values():
            torch.testing.assert_close(weights.sum(-1), torch.ones(3, 7, dtype=torch.float64))
    torch.testing.assert_close(
        model.plan(Fuse("a", "b"), ["fold"]).fusion_attention(**inputs)["a,b"][1]["ffn"], found["a,b"][1]["ffn"]
    )


def test_fusion_attention_of_pieces() -> None:
    model, inputs = model_of(), tiny.inputs("bert", 4)
    found = model.plan('Fuse("a", Route(t="b", u="a"), name="a,b")').fusion_attention(
        **inputs, route=["u", "t", "u", "t"]
    )
    alone = model.plan(Fuse("a", "b")).fusion_attention(**inputs)["a,b"][0]["ffn"]
    torch.testing.assert_close(found["a,b"][0]["ffn"][:2], alone[[1, 3]])
    with pytest.raises(InputError, match="spans of different lengths"):
        model.plan('Split(Fuse("a", "b"), Fuse("b", "a", name="a,b"), sizes=[1, None])').fusion_attention(**inputs)


def test_rows_that_a_route_in_a_fuse_leaves_out() -> None:
    """They are fused with what is there for them, as an Average takes them."""
    model, inputs = model_of(), tiny.inputs("bert", 3)
    tiny.randomize(model.add_fusion(Fuse("a", "b", name="f")), 4, 0.2)
    expression = Fuse("b", Route(t="a", u="b"), Route(t="b", v="a"), name="f")
    found = states(model, expression, inputs, route=["t", "u", "v"]).last_hidden_state
    alone = (Fuse("b", "a", "b", name="f"), Fuse("b", "b", None, name="f"), Fuse("b", None, "a", name="f"))
    for row, fuse in enumerate(alone):
        torch.testing.assert_close(found[row], states(model, fuse, inputs).last_hidden_state[row], rtol=1e-9, atol=1e-9)


def test_fusion_attention_of_several() -> None:
    model, inputs = model_of(), tiny.inputs()
    tiny.randomize(model.add_fusion(Fuse("lora", "a", "b", None, name="four")), 3, 0.2)
    expression = Parallel(Fuse("a", "b"), Drop(Fuse("lora", "a", "b", None, name="four"), first=1), None)
    found = model.plan(expression).fusion_attention(**inputs)
    assert set(found) == {"a,b", "four"}
    assert set(found["four"]) == {1, 2} and set(found["a,b"]) == {0, 1, 2}
    assert set(found["four"][1]) == {"attn.q", "attn.v", "attn", "ffn"}
    alone = model.plan(Fuse("a", "b")).fusion_attention(**inputs)["a,b"][2]["ffn"]
    torch.testing.assert_close(found["a,b"][2]["ffn"], alone)
    twice = model.plan(Parallel(x=Fuse("a", "b"), y=Stack("lora", Fuse("a", "b")))).fusion_attention(**inputs)
    assert twice["a,b"][2]["ffn"].shape == (6, 7, 2)
    torch.testing.assert_close(twice["a,b"][2]["ffn"][:3], alone)
    assert model.plan("a").fusion_attention(**inputs) == {}


# what it says it costs


@pytest.mark.parametrize(
    "expression",
    [
        Parallel(nli="a", both=Fuse("a", "b"), lora=Drop("lora", first=2)),
        Stack("a", "lora"),
        Drop("b", first=1),
        Fuse("a", "b"),
    ],
    ids=str,
)
def test_explained_numbers(expression: Expression) -> None:
    model = model_of(attn_implementation="eager")
    for name in ("nli", "both", "lora", "b", "a,b"):
        model.add_head(name, labels=2)
    plan = model.plan(expression)
    found = plan.explain(rows=5, tokens=9)
    assert found.flops == pytest.approx(flops(plan, tiny.inputs(rows=5, tokens=9)), rel=0.01)
    alone = (
        [expression] if not isinstance(expression, Parallel) else [Parallel({t: e}) for t, e in branches(expression)]
    )
    separate = sum(flops(model.plan(each), tiny.inputs(rows=5, tokens=9)) for each in alone)
    assert found.separate_flops == pytest.approx(separate, rel=0.01)
    assert found.flops <= found.separate_flops * 1.001
    assert found.ranges[0].rows == 5 and found.ranges[-1].last == LAYERS - 1


def branches(expression: Parallel) -> list[tuple[str | None, Expression]]:
    return list(zip(expression.tasks, expression.children, strict=True))


# rows that blocks part


def test_split_and_route_outputs() -> None:
    model, inputs = model_of(), tiny.inputs(rows=4, tokens=8)
    found = states(model, Split("a", "lora", sizes=[3, None]), inputs).last_hidden_state
    assert found.shape == (4, 8, 32)
    for name, labels in (("a", 2), ("lora", 3)):
        tiny.randomize(model.add_head(name, labels=labels), labels)
    with torch.no_grad():
        out = model.plan(Route(a="a", lora="lora"))(**inputs, route=["lora", "a", "lora", "lora"])
        assert out["a"].rows.tolist() == [1] and out["lora"].rows.tolist() == [0, 2, 3]
        for name in ("a", "lora"):
            expected = model.plan(name)(**inputs)[name].logits[out[name].rows]
            torch.testing.assert_close(out[name].logits, expected)
        none = model.plan(Route(a="a", lora="lora"))(**inputs, route=["a"] * 4)
    assert none["lora"].logits.shape == (0, 3) and none["lora"].rows.tolist() == []
