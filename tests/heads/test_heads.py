"""Heads: logits, losses, labels, weights."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from compose.errors import ConfigError, FileError, InputError
from compose.heads.adapterhub import from_adapterhub_index
from compose.heads.build import HEADS, build_head
from compose.heads.head import Head, HeadInput, Host, activation
from compose.heads.spec import ACTIVATIONS, KINDS
from compose.specs import BackboneSpec, LayerSpec

WIDTH, VOCABULARY = 8, 20


def spec(architecture: str = "bert", causal: bool = False, decoder: bool = False) -> BackboneSpec:
    stacks = ("encoder", "decoder") if decoder else ("encoder",)
    layers = tuple(LayerSpec(index, stack, ()) for index, stack in enumerate(stacks))  # type: ignore[arg-type]
    return BackboneSpec(architecture, WIDTH, layers, causal, vocabulary=VOCABULARY)


HOST = Host(spec())


def head(kind: Any = "classification", host: Host = HOST, **options: Any) -> Head:
    torch.manual_seed(0)
    made = build_head("t", kind, host, **options)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.5)
    return made.eval()


def states(rows: int = 3, tokens: int = 5) -> HeadInput:
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(3, VOCABULARY, (rows, tokens), generator=generator)
    read, words = (torch.randn(*shape, WIDTH, generator=generator) for shape in ((rows, tokens), (VOCABULARY,)))
    return HeadInput(read, input_ids=ids, embeddings=words)


def test_every_kind_builds() -> None:
    assert {row.config.kind for row in KINDS.values()} == set(HEADS)
    for kind in KINDS:
        made = build_head("t", kind, HOST)
        assert made.spec.name == "t" and made.spec.token_multiplies + made.spec.row_multiplies > 0


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_builds(name: str) -> None:
    assert activation(name)(torch.zeros(2)).shape == (2,)


@pytest.mark.parametrize(("kind", "layers"), [("classification", 1), ("classification", 3), ("tagging", 2)])
def test_adapterhub_layout(kind: str, layers: int) -> None:
    """What AdapterHub builds as one Sequential gives the same, tensors renamed by the table."""
    made = head(kind, labels=3, layers=layers)
    sequence: list[nn.Module] = []
    for layer in range(layers):
        last = layer == layers - 1
        sequence += [nn.Dropout(0.1), nn.Linear(WIDTH, 3 if last else WIDTH)] + ([] if last else [nn.Tanh()])
    theirs = nn.Sequential(*sequence).eval()
    names = from_adapterhub_index(made.config)
    renamed = {f"{names[k.split('.')[0]]}.{k.split('.')[1]}": v for k, v in theirs.state_dict().items()}
    made.load_tensors(renamed)
    inputs = states()
    read = inputs.states if kind == "tagging" else inputs.states[:, 0]
    torch.testing.assert_close(made(inputs).logits, theirs(read), rtol=0, atol=1e-7)


def test_adapterhub_causal_layout() -> None:
    made = head("causal_lm", layers=2, bias=True)
    theirs = nn.Sequential(
        nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.LayerNorm(WIDTH, eps=1e-12), nn.Linear(WIDTH, VOCABULARY)
    )
    names = from_adapterhub_index(made.config)
    made.load_tensors({f"{names[k[0]]}{k[1:]}": v for k, v in theirs.state_dict().items()})
    inputs = states()
    torch.testing.assert_close(made(inputs).logits, theirs(inputs.states), rtol=0, atol=1e-6)


def test_classification_loss() -> None:
    made, inputs = head(labels=["a", "b", "c"]), states()
    labels = torch.tensor([0, -100, 2])
    out = made(inputs, labels)
    torch.testing.assert_close(out.loss, F.cross_entropy(out.logits, labels))
    torch.testing.assert_close(made(inputs, ["a", None, "c"]).loss, out.loss)
    torch.testing.assert_close(made(inputs, labels.unsqueeze(1)).loss, out.loss)
    assert made(inputs).loss is None


def test_no_labels_that_count_is_a_loss_of_zero() -> None:
    made, inputs = head(), states()
    loss = made(inputs, torch.full((3,), -100)).loss
    loss.backward()
    assert loss == 0 and all((p.grad == 0).all() for p in made.parameters())
    empty = HeadInput(inputs.states[:0])
    assert made(empty, torch.zeros(0, dtype=torch.long)).loss == 0


def test_multi_label_loss() -> None:
    made, inputs = head("multi_label", labels=4), states()
    labels = torch.tensor([[1.0, 0, 0, 1], [0, 0, 0, 0], [float("nan")] * 4])
    out = made(inputs, labels)
    torch.testing.assert_close(out.loss, F.binary_cross_entropy_with_logits(out.logits[:2], labels[:2]))
    whole = torch.tensor([[1, 0, 0, 1], [0, 0, 0, 0], [-100] * 4])
    torch.testing.assert_close(made(inputs, whole).loss, out.loss)


def test_regression_loss() -> None:
    made, inputs = head("regression"), states()
    labels = torch.tensor([0.5, float("nan"), -100.0])  # a value like any other where labels are fractions
    out = made(inputs, labels)
    torch.testing.assert_close(out.loss, F.mse_loss(out.logits[[0, 2], 0], labels[[0, 2]]))
    torch.testing.assert_close(
        made(inputs, torch.tensor([1, 2, -100])).loss, F.mse_loss(out.logits[:2, 0], torch.tensor([1.0, 2]))
    )
    several = head("regression", labels=2)
    assert several(inputs, torch.zeros(3, 2)).loss.shape == ()


def test_tagging_loss_leaves_out_padding() -> None:
    made, inputs = head("tagging", labels=3), states()
    mask = torch.ones(3, 5, dtype=torch.long)
    mask[1, 2:] = 0
    labels = torch.randint(0, 3, (3, 5))
    out = made(inputs._replace(attention_mask=mask), labels)
    masked = labels.masked_fill(mask == 0, -100)
    torch.testing.assert_close(out.loss, F.cross_entropy(out.logits.flatten(0, 1), masked.flatten()))


def test_causal_lm_loss_is_shifted() -> None:
    inputs = states()
    made = head("causal_lm")
    out = made(inputs, inputs.input_ids)
    want = F.cross_entropy(out.logits[:, :-1].flatten(0, 1), inputs.input_ids[:, 1:].flatten())
    torch.testing.assert_close(out.loss, want)
    plain = head("causal_lm", shift_labels=False)
    want = F.cross_entropy(out.logits.flatten(0, 1), inputs.input_ids.flatten())
    torch.testing.assert_close(plain(inputs, inputs.input_ids).loss, want)


def test_causal_lm_starts_from_the_embeddings() -> None:
    embeddings = torch.randn(VOCABULARY, WIDTH)
    made = build_head("t", "causal_lm", HOST._replace(embeddings=embeddings))
    assert torch.equal(made.out.weight, embeddings) and made.out.weight is not embeddings
    with pytest.raises(ConfigError, match="no vocabulary"):
        build_head("t", "causal_lm", Host(BackboneSpec("vit", WIDTH, ())))


@pytest.mark.parametrize(
    ("kind", "labels", "message"),
    [
        ("classification", torch.tensor([0, 1, 2]), r"task 't': label 2 at \[2\] is out of range"),
        ("classification", torch.tensor([0, -1, 1]), "label -1"),
        ("classification", torch.tensor([0.0, 1, 1]), r"torch.float32"),
        ("classification", torch.tensor([0, 1]), r"shape \[2\], but \[3\]"),
        ("classification", ["LABEL_0", "LABEL_2", "LABEL_1"], "no label 'LABEL_2'"),
        ("classification", [[0, 1], [0]], "cannot be made one"),
        ("classification", object(), "cannot be made one"),
        ("multi_label", torch.tensor([[0, 1], [0, 2], [1, 1]]), r"label 2 at \[1, 1\]"),
        ("multi_label", torch.tensor([0, 1, 1]), r"\[3, 2\] is needed"),
        ("regression", torch.tensor([0.0, float("inf"), 1]), "finite"),
        ("tagging", torch.tensor([0, 1, 1]), r"\[3, 5\]"),
        ("tagging", torch.full((3, 5), 2), r"label 2 at \[0, 0\]"),
        ("causal_lm", torch.full((3, 5), VOCABULARY), f"label {VOCABULARY}"),
    ],
)
def test_labels_that_do_not_fit(kind: str, labels: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        head(kind)(states(), labels)


def test_encode_label() -> None:
    made = head(labels=["neutral", "positive"])
    assert [made.encode_label(label) for label in ("positive", 0, None, -100)] == [1, 0, -100, -100]
    with pytest.raises(InputError, match="legal: 'positive'"):
        made.encode_label("positve")
    with pytest.raises(InputError):
        made.encode_label(2)


def read(pooling: str | None, host: Host, inputs: HeadInput) -> torch.Tensor:
    """The states that a classification head reads."""
    return head(host=host, pooling=pooling).read(inputs)  # type: ignore[operator]


def test_pooling() -> None:
    inputs = states()
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 1, 1, 1]])
    masked = inputs._replace(attention_mask=mask)
    rows = torch.arange(3)
    assert torch.equal(read("first", HOST, masked), inputs.states[:, 0])
    assert torch.equal(read("last", HOST, masked), inputs.states[rows, [4, 1, 4]])
    assert torch.equal(read("last", HOST, inputs), inputs.states[:, -1])
    torch.testing.assert_close(read("mean", HOST, masked)[1], inputs.states[1, :2].mean(0))
    torch.testing.assert_close(read("mean", HOST, inputs), inputs.states.mean(1))


def test_pooling_depends_on_the_backbone() -> None:
    inputs = states()
    causal, decoder = Host(spec("gpt2", causal=True)), Host(spec("t5", decoder=True), eos_tokens=(1,))
    assert torch.equal(read(None, HOST, inputs), inputs.states[:, 0])
    assert torch.equal(read(None, causal, inputs), inputs.states[:, -1])
    ids = inputs.input_ids.clone()
    ids[:, 3], ids[1, 1] = 1, 1
    assert torch.equal(read(None, decoder, inputs._replace(input_ids=ids)), inputs.states[:, 3])
    with pytest.raises(InputError, match="row 0 has no end-of-sequence token"):
        read(None, decoder, inputs)
    with pytest.raises(InputError, match="not those of the input ids"):
        read(None, decoder, inputs._replace(input_ids=None))


def test_pooling_as_adapterhub_reads() -> None:
    inputs = states()
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0]])
    ids = inputs.input_ids.masked_fill(mask == 0, 0)
    padded = inputs._replace(attention_mask=mask, input_ids=ids)
    causal = Host(spec("gpt2", causal=True))
    assert torch.equal(read("adapterhub", causal, padded), inputs.states[:, -1])
    with_pad = causal._replace(pad_token=0)
    assert torch.equal(read("adapterhub", with_pad, padded), inputs.states[torch.arange(3), [4, 1, 2]])
    assert torch.equal(read("adapterhub", HOST, padded), inputs.states[:, 0])
    ids[:, 4] = 1
    scaled = Host.of(spec("t5", decoder=True), SimpleNamespace(eos_token_id=1, tie_word_embeddings=True))
    torch.testing.assert_close(read("adapterhub", scaled, padded), inputs.states[:, 4] * WIDTH**-0.5)
    assert torch.equal(read("eos", scaled, padded), inputs.states[:, 4])


def test_pooler() -> None:
    made, inputs = head(use_pooler=True), states()
    pooled = torch.randn(3, WIDTH)
    torch.testing.assert_close(made(inputs._replace(pooled=pooled)).logits, made.out(pooled))
    with pytest.raises(InputError, match="no pooled output"):
        made(inputs)


def test_dropout_acts_in_training_only() -> None:
    config = SimpleNamespace(classifier_dropout=None, hidden_dropout_prob=0.4)
    host = Host.of(spec(), config)
    made = head(host=host)
    assert made.dropout.p == 0.4 and head(host=host, dropout=0.0).dropout.p == 0.0
    assert torch.equal(made(states()).logits, made(states()).logits)
    made.train()
    assert not torch.equal(made(states()).logits, made(states()).logits)


def test_states_of_lower_precision() -> None:
    inputs = states()
    half = inputs._replace(states=inputs.states.bfloat16())
    assert head()(half, torch.tensor([0, 1, 1])).logits.dtype == torch.float32


def test_load_tensors_is_all_or_nothing() -> None:
    made = head(layers=2)
    before = {name: tensor.clone() for name, tensor in made.tensors().items()}
    assert list(before) == ["dense.0.weight", "dense.0.bias", "out.weight", "out.bias"]
    bad = {name: tensor + 1 for name, tensor in before.items()}
    bad["out.bias"] = torch.tensor([1.0, float("nan")])
    bad["dense.0.bias"] = torch.zeros(3)
    bad["dense.1.bias"] = bad.pop("out.weight")
    with pytest.raises(FileError) as caught:
        made.load_tensors(bad)
    text = str(caught.value)
    assert len(caught.value.problems) == 4
    assert "'out.weight' is missing" in text and "not finite" in text and "'dense.1.bias' is not" in text
    assert all(torch.equal(made.tensors()[name], tensor) for name, tensor in before.items())
    made.load_tensors({name: tensor + 1 for name, tensor in before.items()})
    assert torch.equal(made.out.bias, before["out.bias"] + 1)


@pytest.mark.parametrize("kind", KINDS)
def test_compiles_in_one_graph(kind: str) -> None:
    torch.compiler.reset()  # the limit of recompilations counts all kinds together
    made, inputs = head(kind), states()
    labels = {
        "tagging": torch.ones(3, 5).long(),
        "question_answering": torch.ones(3, 2).long(),
        "causal_lm": inputs.input_ids,
        "masked_lm": inputs.input_ids,
        "regression": torch.ones(3),
        "multi_label": torch.ones(3, 2),
    }.get(kind, torch.ones(3).long())
    compiled = torch.compile(made, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(inputs, labels).loss, made(inputs, labels).loss)
    torch.testing.assert_close(compiled(inputs).logits, made(inputs).logits)


class Weighted(nn.Module):
    """A user's head that asks for all it can get."""

    def forward(self, states, attention_mask=None, input_ids=None, labels=None):  # type: ignore[no-untyped-def]
        assert attention_mask is None and input_ids is not None
        logits = states.sum(1)
        return {"logits": logits, "loss": None if labels is None else (logits.sum(-1) - labels).mean()}


class Wrong(nn.Module):
    """A user's head that returns nothing of use."""

    def forward(self, states):  # type: ignore[no-untyped-def]
        return [states]


def test_custom() -> None:
    inputs = states()
    linear = build_head("t", nn.Linear(WIDTH, 2), HOST)
    assert linear(inputs).logits.shape == (3, 5, 2)
    assert linear.spec.token_multiplies == 2 * WIDTH and linear.spec.kind == "custom"
    assert set(linear.tensors()) == {"module.weight", "module.bias"}
    with pytest.raises(InputError, match=r"Linear\.forward takes none"):
        linear(inputs, torch.zeros(3))
    made = build_head("t", Weighted(), HOST)
    assert made(inputs).loss is None
    torch.testing.assert_close(made(inputs, [0.0, 0, 0]).loss, inputs.states.sum((1, 2)).mean())
    with pytest.raises(InputError, match="Wrong returned list"):
        build_head("t", Wrong(), HOST)(inputs)
