"""What acts before the layers, in whole models: against plain references, under heads, in training, its cost."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters
from torch.utils.flop_counter import FlopCounterMode

from compose.backbones.resolve import TABLES
from compose.dsl import Average, BatchSplit, Drop, Expression, Fuse, Parallel, Route, Split, Stack
from compose.errors import BackboneError, CompileError, ConfigError, InputError
from compose.methods.invertible.module import InvertiblePart
from compose.runtime.attach import attach
from compose.runtime.model import Model
from tests import tiny
from tests.defects.cases import differ
from tests.laws.worlds import close

PROMPT = 3


def model_of(architecture: str = "bert", dtype: torch.dtype = torch.float64, layers: int = 2, **options: Any) -> Model:
    model = tiny.model(architecture, layers, dtype, **options)
    made = {
        "nice": ("seq_bn_inv", {"bottleneck_size": 4}),
        "glow": ("seq_bn_inv", {"bottleneck_size": 4, "inv_adapter": "glow"}),
        "prompt": ("prompt_tuning", {"prompt_length": PROMPT}),
        "after": ("prompt_tuning", {"prompt_length": PROMPT + 2, "combine": "prefix_after_bos"}),
        "a": ("seq_bn", {"bottleneck_size": 4}),
        "b": ("seq_bn", {"bottleneck_size": 4}),
    }
    for seed, (name, (preset, given)) in enumerate(made.items()):
        tiny.randomize(model.add_adapter(name, preset, **given), seed)
    return model


def states(model: Model, expression: Expression, inputs: dict[str, Tensor], **options: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model.plan(expression).states(**inputs, **options).last_hidden_state
    return found


def words_of(model: Model, ids: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = model.backbone.get_input_embeddings()(ids)
    return found


def with_prompt(model: Model, name: str, y: Tensor) -> Tensor:
    part = model.adapters[name].part(-1, "embed")
    prompt = part.weight.detach().expand(len(y), -1, -1)
    place = part.config.place
    return torch.cat([y[:, :place], prompt, y[:, place:]], 1)


@pytest.mark.parametrize("name", ["prompt", "after"])
@pytest.mark.parametrize("architecture", ["llama", "t5", "gpt2"])
def test_a_prompt_is_what_its_vectors_in_the_input_would_be(architecture: str, name: str) -> None:
    """Where embeddings are those of words, positions are relative; GPT-2's are taken from what it adds."""
    model, inputs = model_of(architecture), tiny.inputs(architecture, 3, 6, padded=True)
    mask = torch.cat([torch.ones(3, model.adapters[name].config.prompt_length), inputs["attention_mask"]], 1)
    embeddings = words_of(model, inputs["input_ids"])
    if architecture == "gpt2":
        positions = model.backbone.wpe.weight.detach()
        embeddings = with_prompt(model, name, embeddings + positions[:6]) - positions[: mask.shape[1]]
    else:
        embeddings = with_prompt(model, name, embeddings)
    given = {**inputs, "inputs_embeds": embeddings, "attention_mask": mask.long()}
    del given["input_ids"]
    with torch.no_grad():
        expected = model.backbone(**given).last_hidden_state
    close(states(model, name, inputs), expected)


def test_bert_s_prompt_stands_where_the_embeddings_output_does() -> None:
    model, inputs = model_of("bert", attn_implementation="eager"), tiny.inputs("bert", 3, 6, padded=True)
    backbone: Any = model.backbone
    with torch.no_grad():
        y = with_prompt(model, "prompt", backbone.embeddings(inputs["input_ids"]))
        mask = torch.cat([torch.ones(3, PROMPT), inputs["attention_mask"]], 1)
        added = (1 - mask.double())[:, None, None] * torch.finfo(torch.float64).min
        expected = backbone.encoder(y, attention_mask=added).last_hidden_state
    close(states(model, "prompt", inputs), expected)


def test_positions_that_the_call_gives_move_on() -> None:
    model, inputs = model_of("llama"), tiny.inputs("llama", 2, 5)
    given = {**inputs, "position_ids": torch.tensor([[2, 3, 4, 5, 6], [0, 1, 2, 3, 4]])}
    embeddings = with_prompt(model, "prompt", words_of(model, inputs["input_ids"]))
    positions = torch.tensor([[2], [0]]) + torch.arange(5 + PROMPT)
    with torch.no_grad():
        expected = model.backbone(inputs_embeds=embeddings, position_ids=positions).last_hidden_state
    close(states(model, "prompt", given), expected)


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "llama", "t5"])
def test_embeddings_given_by_the_call(architecture: str) -> None:
    model, inputs = model_of(architecture), tiny.inputs(architecture, 3, 6, padded=True)
    given = {name: value for name, value in inputs.items() if name != "input_ids"}
    given["inputs_embeds"] = words_of(model, inputs["input_ids"])
    for expression in (Stack("nice", "prompt"), Parallel("glow", "after", "a")):
        close(states(model, expression, given), states(model, expression, inputs))


def test_a_prompt_takes_none_of_the_backbone_s_positions() -> None:
    model = model_of("bert")
    longest = tiny.inputs("bert", 2, 64)
    assert states(model, "prompt", longest).shape == (2, 64 + PROMPT, 32)
    with pytest.raises(InputError, match="65 tokens"):
        states(model, "prompt", tiny.inputs("bert", 2, 65))


def test_padding_changes_nothing_but_with_adapterhub_s_masks() -> None:
    model, inputs = model_of("bert"), tiny.inputs("bert", 1, 6)
    padded = {
        "input_ids": torch.cat([inputs["input_ids"], torch.ones(1, 4, dtype=torch.long)], 1),
        "attention_mask": torch.tensor([[1] * 6 + [0] * 4]),
    }
    own = slice(0, 6 + PROMPT)
    close(states(model, "prompt", padded)[:, own], states(model, "prompt", inputs))
    theirs = model.add_adapter("theirs", "prompt_tuning", prompt_length=PROMPT, adapterhub_mask=True)
    theirs.load_tensors(model.adapters["prompt"].tensors())
    close(states(model, "theirs", inputs), states(model, "prompt", inputs))
    assert (states(model, "theirs", padded)[:, own] - states(model, "prompt", inputs)).abs().max() > 1e-6
    both = states(model, Parallel("theirs", "after", "a"), padded).chunk(3)
    for found, name in zip(both, ("theirs", "after", "a"), strict=True):
        alone = states(model, name, padded)
        close(found[:, : alone.shape[1]], alone)


def test_heads_read_the_text_s_own_tokens() -> None:
    """But the first position, and the pooler's, may be a prompt's, as in AdapterHub."""
    model, inputs = model_of("bert"), tiny.inputs("bert", 3, 6, padded=True)
    expression = Parallel(mean="prompt", first="prompt", tags="after", pooled="prompt", plain=None)
    for name, kind, options in (
        ("mean", "classification", {"pooling": "mean"}),
        ("first", "classification", {"pooling": "first"}),
        ("pooled", "classification", {"use_pooler": True}),
        ("tags", "tagging", {}),
        ("plain", "tagging", {}),
    ):
        tiny.randomize(model.add_head(name, kind, labels=["x", "y"], **options), 3)
    tags = torch.tensor([[0, 1, 0, 1, 0, 1]] * 3)
    with torch.no_grad():
        out = model.plan(expression)(**inputs, labels={"tags": tags})
        whole = model.plan("prompt").states(**inputs)
        after = states(model, "after", inputs)

    def logits(name: str, given: Tensor) -> Tensor:
        head = model.heads[name]
        for dense in head.dense:
            given = head.activation(dense(given))
        result: Tensor = head.out(given).detach()
        return result

    last, weights = whole.last_hidden_state, inputs["attention_mask"].double().unsqueeze(-1)
    close(out["mean"].logits, logits("mean", (last[:, PROMPT:] * weights).sum(1) / weights.sum(1)))
    close(out["first"].logits, logits("first", last[:, 0]))
    close(out["pooled"].logits, logits("pooled", whole.pooler_output))
    kept = torch.cat([after[:, :1], after[:, PROMPT + 3 :]], 1)
    close(out["tags"].logits, logits("tags", kept))
    close(out["plain"].logits, logits("plain", states(model, None, inputs)))
    kept_tags = tags.masked_fill(inputs["attention_mask"] == 0, -100)
    assert out["tags"].loss is not None
    close(out["tags"].loss, torch.nn.functional.cross_entropy(out["tags"].logits.flatten(0, 1), kept_tags.flatten()))


@pytest.mark.parametrize("architecture", ["gpt2", "t5", "bert"])
def test_language_heads_undo_invertible_parts(architecture: str) -> None:
    model, inputs = model_of(architecture), tiny.inputs(architecture, 3, 6, padded=True)
    for name in ("nice", "both", "dropped", "prompt"):
        tiny.randomize(model.add_head(name, "causal_lm", layers=2, activation="relu", layer_norm=True), 3)
    layers = len(model.spec.layers)
    branches: dict[str, tuple[Expression, tuple[str, ...]]] = {
        "nice": ("nice", ("nice",)),
        "both": (Stack("nice", "glow", "a"), ("nice", "glow")),
        "dropped": (Stack("nice", Drop("glow", first=layers)), ("nice",)),
        "prompt": ("prompt", ()),
    }
    with torch.no_grad():
        out = model.plan(Parallel({task: expression for task, (expression, _) in branches.items()}))(**inputs)
        for task, (expression, names) in branches.items():
            head = model.heads[task]
            hidden = states(model, expression, inputs)
            if task == "prompt" and architecture != "t5":
                hidden = hidden[:, PROMPT:]
            hidden = head.norm[0](head.dense[0](hidden).relu())
            for name in reversed(names):
                hidden = model.adapters[name].part(-1, "embed").inverse(hidden)
            # Before transformers 5.10, T5 takes the softmax in float32.
            close(out[task].logits, head.out(hidden), 1e-6 if architecture == "t5" else 1e-9)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("union", {"configs": ["lora", {"method": "seq_bn_inv", "bottleneck_size": 4}]}),
        ("compacter++", {"bottleneck_size": 4, "inv_adapter": "glow"}),
    ],
)
def test_language_heads_undo_those_of_other_methods(method: str, options: dict[str, Any]) -> None:
    model, inputs = model_of("bert"), tiny.inputs("bert", 3, 6, padded=True)
    tiny.randomize(model.add_adapter("x", method, **options), 7)
    tiny.randomize(model.add_head("x", "causal_lm"), 3)
    with torch.no_grad():
        found = model.plan("x")(**inputs)["x"].logits
        hidden = model.adapters["x"].part(-1, "embed").inverse(states(model, "x", inputs))
        close(found, model.heads["x"].out(hidden))


def test_each_route_undoes_its_own() -> None:
    model, inputs = model_of("gpt2"), tiny.inputs("gpt2", 3, 6)
    for name in ("nice", "glow"):
        tiny.randomize(model.add_head(name, "causal_lm"), 3)
    with torch.no_grad():
        out = model.plan(Route(nice="nice", glow=Stack("nice", "glow")))(**inputs, route=["glow", "nice", "nice"])
        model.add_head("x", model.heads["glow"])
        alone = model.plan(Parallel(nice="nice", glow=Stack("nice", "glow")))(**inputs)
    close(out["nice"].logits, alone["nice"].logits[1:])
    close(out["glow"].logits, alone["glow"].logits[:1])


def test_what_cannot_be_undone_is_refused() -> None:
    model, inputs = model_of("gpt2"), tiny.inputs("gpt2", 3, 6)
    model.add_head("x", "causal_lm")
    model.add_head("narrow", "causal_lm", layers=2, embedding_size=8)
    model.add_head("y", "classification", labels=2)
    for expression in (Average("nice", "glow"), Split("nice", "glow", sizes=[2, None])):
        with pytest.raises(ConfigError, match=r"head 'x': it needs what undoes the invertible parts of"):
            model.plan(Parallel(x=expression))(**inputs)
        assert model.plan(Parallel(y=expression))(**inputs)["y"].logits.shape == (3, 2)
    assert model.plan(Parallel(x=Average("nice", "nice")))(**inputs)["x"].logits.shape == (3, 6, 50)
    with pytest.raises(ConfigError, match="width 8, invertible parts are undone at 32"):
        model.plan(Parallel(narrow="nice"))(**inputs)


def test_a_language_below_fused_tasks() -> None:
    """MAD-X: Stack(language, Fuse(tasks))."""
    model, inputs = model_of("bert"), tiny.inputs("bert", 3, 6)
    tiny.randomize(model.add_fusion(Fuse("a", "b")), 2, 0.2)
    found = states(model, Stack("nice", Fuse("a", "b")), inputs)
    part = model.adapters["nice"].part(-1, "embed")
    assert isinstance(part, InvertiblePart)
    model.add_adapter("layers", "seq_bn", bottleneck_size=4).load_tensors(
        {name: tensor for name, tensor in model.adapters["nice"].tensors().items() if not name.startswith("-1.")}
    )
    embedded: Any = model.backbone.get_submodule("embeddings")
    handle = embedded.register_forward_hook(lambda module, args, output: part(output, None))
    close(found, states(model, Stack("layers", Fuse("a", "b")), inputs))
    handle.remove()


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        (Fuse("nice", "a"), r"(?s)'nice' has an invertible part, which cannot be fused.*try: Stack\('nice', Fuse"),
        (Fuse("prompt", "a"), "'prompt' cannot be fused"),
        (Stack("prompt", Split("a", "b", sizes=[2, None])), "this Split cuts rows that a prompt makes longer"),
        (Average("prompt", "a"), "make rows longer in different ways"),
        (Average("prompt", "after"), "make rows longer in different ways"),
        (Average("prompt", "prompt", weights=[1, 1], normalize=False), "do not add up to 1"),
    ],
)
def test_what_has_no_meaning(expression: Expression, message: str) -> None:
    with pytest.raises(CompileError, match=message) as caught:
        model_of().plan(expression)
    assert "^" in str(caught.value)


def test_a_dropped_prompt_may_stand_beside_a_split() -> None:
    model, inputs = model_of(), tiny.inputs("bert", 3, 6)
    expression = Stack(Drop("prompt", first=2), Split("a", "b", sizes=[2, None]))
    close(states(model, expression, inputs), states(model, Split("a", "b", sizes=[2, None]), inputs))


def test_inputs_that_have_no_meaning_under_a_prompt() -> None:
    model, inputs = model_of("gpt2"), tiny.inputs("gpt2", 2, 4)
    whole = torch.ones(2, 1, 4, 4, dtype=torch.bool)
    with pytest.raises(InputError, match=r"prompts need one of \[rows, tokens\]"):
        states(model, "prompt", {**inputs, "attention_mask": whole})
    cache = model.backbone(**inputs, use_cache=True).past_key_values
    with pytest.raises(InputError, match="past_key_values is given"):
        model.plan("prompt").states(**inputs, past_key_values=cache)


@pytest.mark.parametrize("reentrant", [None, False, True])
@pytest.mark.parametrize("architecture", ["bert", "t5"])
def test_gradients(architecture: str, reentrant: bool | None) -> None:
    """Those of the parts, equal to separate runs' and with gradient checkpointing."""
    model, inputs = model_of(architecture), tiny.inputs(architecture, 3, 6, padded=True)
    expression = Parallel(Stack("nice", "prompt"), Stack("glow", "after"))
    model.train_only(expression)
    model.train()

    def gradients(*expressions: Expression) -> list[Tensor]:
        model.zero_grad()
        for each in expressions:
            last = model.plan(each).states(**inputs).last_hidden_state
            read = last if architecture == "t5" else last[:, : 6 + PROMPT]
            (read**2).sum().backward()
        names = ("nice", "glow", "prompt", "after")
        return [p.grad.clone() for name in names for p in model.adapters[name].parameters() if p.grad is not None]

    expected = gradients(*expression.children)
    if reentrant is not None:
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    found = gradients(expression)
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        close(one, other)


@pytest.mark.parametrize("text", ["Stack('nice', 'prompt')", "Parallel('prompt', 'glow', 'a', 'after')"])
@pytest.mark.parametrize("architecture", ["bert", "gpt2", "t5", "vit"])
def test_what_it_costs(architecture: str, text: str) -> None:
    model = model_of(architecture, torch.float32, attn_implementation="eager")
    batch = tiny.inputs(architecture, 3, 16, dtype=torch.float32)
    plan = model.plan(text)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        plan.states(**batch)
    tokens, decoder = (17, None) if architecture == "vit" else (16, 14 if architecture == "t5" else None)
    found = plan.explain(3, tokens, decoder)
    assert found.flops == pytest.approx(counter.get_total_flops(), rel=0.01)
    assert any("tokens longer in the layers" in note for note in found.notes)
    assert plan.trunk == 0 and "the embeddings' output" in str(found) and "after the embeddings" in found.mermaid()


def test_aggregation_reads_what_was_made_of_the_embeddings() -> None:
    model, inputs = model_of("bert"), tiny.inputs("bert", 3, 6, padded=True)
    tiny.randomize(model.add_adapter("layers", "layer_aggregation"), 5)
    branches = (Stack("nice", "layers"), Stack("prompt", "layers"), "after")
    found = states(model, Parallel(*branches), inputs).chunk(3)
    for branch, rows in zip(branches, found, strict=True):
        alone = states(model, branch, inputs)
        close(rows[:, : alone.shape[1]], alone)
    assert (found[0][:, :6] - states(model, Stack("a", "layers"), inputs)).abs().max() > 1e-3


def test_compiled() -> None:
    torch.compiler.reset()
    model = model_of("bert", torch.float32, 1)
    for expression in (Parallel("nice", "glow"), Parallel("prompt", "nice")):
        counters.clear()
        plan = model.plan(expression)
        optimized = plan.optimize(backend="eager")
        for rows, tokens in ((3, 6), (2, 8)):
            inputs = tiny.inputs("bert", rows, tokens, padded=True)
            with torch.no_grad():
                found = optimized.states(**inputs).last_hidden_state
                expected = plan.states(**inputs).last_hidden_state
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        assert counters["stats"]["unique_graphs"] == 1
    torch.compiler.reset()


def test_a_table_without_an_entry_takes_no_prompts() -> None:
    table = replace(TABLES["bert"][0], entry={})
    model = attach(tiny.backbone("bert"), table=table)
    model.add_adapter("prompt", "prompt_tuning")
    tiny.randomize(model.add_adapter("nice", "seq_bn_inv"))
    assert differ(states(model, "nice", tiny.inputs()), states(model, None, tiny.inputs()))
    with pytest.raises(BackboneError, match="prompts cannot be put among the embeddings of BertModel"):
        model.plan("prompt")


def test_fewer_tasks() -> None:
    """Also such as no prompt is left for."""
    model, inputs = model_of("bert"), tiny.inputs("bert", 3, 6, padded=True)
    expression = Parallel("prompt", "after", "nice", "a")
    for name in ("prompt", "after", "nice", "a"):
        tiny.randomize(model.add_head(name, "tagging", labels=["x", "y"]), 3)
    with torch.no_grad():
        whole = model.plan(expression)(**inputs)
        for tasks in (["after"], ["nice", "prompt"], ["a"], ["nice", "a"]):
            found = model.plan(expression)(**inputs, tasks=tasks)
            for task in tasks:
                close(found[task].logits, whole[task].logits)


def test_rows_of_a_batch_split() -> None:
    model, inputs = model_of("bert"), tiny.inputs("bert", 3, 6, padded=True)
    found = states(model, BatchSplit("prompt", Stack("after", "nice"), None, sizes=[1, 1, None]), inputs)
    close(found[:1, : 6 + PROMPT], states(model, "prompt", inputs)[:1])
    close(found[1:2], states(model, Stack("after", "nice"), inputs)[1:2])
    close(found[2:, :6], states(model, None, inputs)[2:])


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("compacter", {"bottleneck_size": 4, "inv_adapter": "nice"}),
        ("compacter++", {"bottleneck_size": 4, "inv_adapter": "glow"}),
        (["lora", "seq_bn_inv"], {}),
    ],
)
def test_language_heads_undo_invertible_parts_of_every_method(method: Any, options: dict[str, Any]) -> None:
    model, inputs = model_of("gpt2"), tiny.inputs("gpt2", 3, 6)
    tiny.randomize(model.add_adapter("sw", method, **options), 1, 0.1)
    tiny.randomize(model.add_head("x", "causal_lm"), 3)
    with torch.no_grad():
        logits = model.plan(Parallel(x=Stack("sw", "nice")))(**inputs)["x"].logits
        hidden = states(model, Stack("sw", "nice"), inputs)
        head = model.heads["x"]
        for dense, norm in zip(head.dense, head.norm, strict=True):
            hidden = norm(head.activation(dense(hidden)))
        for name in ("nice", "sw"):
            hidden = model.adapters[name].part(-1, "embed").inverse(hidden)
        close(logits, head.out(hidden))


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "llama"])
def test_checkpointing_that_is_turned_on_later(architecture: str) -> None:
    """A plan with prompts has copies of the backbone's outer modules, which learn of it: GPT-2 keeps no cache then."""
    model = tiny.model(architecture).double()
    tiny.randomize(model.add_adapter("p", "prompt_tuning", prompt_length=3))
    model.train()
    plan, inputs = model.plan("p"), tiny.inputs(architecture, padded=True)
    gradients = []
    for reentrant in (None, False, True):
        if reentrant is not None:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        model.zero_grad()
        plan.states(**inputs).last_hidden_state.square().sum().backward()
        gradients.append([p.grad.clone() for p in model.adapters.parameters() if p.grad is not None])
        model.gradient_checkpointing_disable()
    assert gradients[0]
    for other in gradients[1:]:
        torch.testing.assert_close(other, gradients[0], rtol=1e-9, atol=1e-9)
