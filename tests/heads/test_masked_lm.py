"""Heads over the vocabulary whose map is the backbone's own embeddings, and what they say of masked tokens."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from transformers import BertForMaskedLM

from compose.errors import ConfigError
from compose.heads.adapterhub import from_adapterhub_config
from compose.heads.head import HeadInput
from compose.heads.spec import make_head_config
from compose.heads.vocabulary import counted_only
from compose.runtime.attach import attach
from compose.runtime.model import Model
from tests import tiny
from tests.heads.texts import PIECES, bert, tokenizer


def model(kind: str = "masked_lm", **options: Any) -> Model:
    made = attach(bert().double(), tokenizer(mask_token="!"))
    tiny.randomize(made.add_adapter("a", "seq_bn_inv", reduction_factor=2), scale=0.1)
    tiny.randomize(made.add_head("a", kind, **options))
    return made


def batch(made: Model, *texts: str) -> dict[str, torch.Tensor]:
    return dict(made.tokenizer(list(texts), padding=True, return_tensors="pt"))


def test_it_is_berts_own_head() -> None:
    whole = BertForMaskedLM(bert().config).double().eval()
    theirs = whole.cls.predictions
    made = attach(whole.bert, tokenizer())
    made.add_adapter("a", "seq_bn")
    head = made.add_head("a", "masked_lm", activation=whole.config.hidden_act)
    names = {"dense.0": theirs.transform.dense, "norm.0": theirs.transform.LayerNorm}
    own = {f"{name}.{key}": value for name, module in names.items() for key, value in module.state_dict().items()}
    head.load_tensors({**own, "out.bias": torch.arange(len(PIECES)).double()})
    with torch.no_grad():
        theirs.bias.copy_(torch.arange(len(PIECES)))
        inputs = batch(made, "a new york", "b")
        plan = made.plan("Parallel(a=None)")
        expected = whole(**inputs).logits
    torch.testing.assert_close(plan(**inputs)["a"].logits, expected, rtol=1e-9, atol=1e-9)


def test_a_tied_map_is_neither_held_nor_trained_nor_saved(tmp_path: Path) -> None:
    made = model()
    head = made.heads["a"]
    assert "out.weight" not in head.tensors() and not any("out.weight" in name for name in made.state_dict())
    told = made.train_only("a", "heads")
    assert told.count == 16 * 16 + 3 * 16 + len(PIECES)
    inputs = batch(made, "a new york")
    made.plan("a")(**inputs, labels=inputs["input_ids"]).loss.backward()
    assert all(parameter.grad is None for parameter in made.backbone.parameters())
    made.save_head("a", tmp_path / "head")
    assert sum(value.numel() for value in load_file(tmp_path / "head" / "head.safetensors").values()) == told.count
    other = model()
    other.delete_head("a")
    other.load_head(tmp_path / "head")
    other.load_state_dict({**other.state_dict(), **made.state_dict()})
    torch.testing.assert_close(other.plan("a")(**inputs)["a"].logits, made.plan("a")(**inputs)["a"].logits)
    made.to(torch.float32)
    assert made.plan("a")(**inputs)["a"].logits.dtype == torch.float32


def test_one_of_its_own_is_trained(tmp_path: Path) -> None:
    made = model("causal_lm", tied=True)
    assert not made.heads["a"].tensors()
    own = model(tied=False)
    own.train_only("a", "heads")
    inputs = batch(own, "a new york")
    own.plan("a")(**inputs, labels=inputs["input_ids"]).loss.backward()
    assert own.heads["a"].out.weight.grad.abs().sum() > 0


def test_a_tied_map_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"is \[64, 8\], but the input embeddings that it is tied to are \[64, 16\]"):
        model(embedding_size=8)
    model(embedding_size=8, tied=False, layers=2)


@pytest.mark.parametrize(("kind", "options"), [("masked_lm", {}), ("masked_lm", {"tied": False}), ("causal_lm", {})])
def test_logits_of_what_counts_alone_change_nothing(kind: str, options: dict[str, Any]) -> None:
    made = model(kind, **options)
    made.train_only("a")
    inputs = batch(made, "a new york b c", "b")
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    labels[0, 3] = -100
    plan, head = made.plan("a"), made.heads["a"]
    found = []
    for few in (False, True):
        made.zero_grad()
        with counted_only([head] if few else []):
            out = plan(**inputs, labels=labels)
        out.loss.backward()
        found.append((out.loss, [p.grad.clone() for p in made.parameters() if p.requires_grad]))
        assert out["a"].logits.shape[:-1] == ((int(head.counted(labels)),) if few else tuple(labels.shape))
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-12)
    with counted_only([head]):
        nothing = plan(**inputs, labels=torch.full_like(labels, -100)).loss
    assert nothing == 0 and not head.counted_only


def test_what_may_stand_behind_masks() -> None:
    made = model()
    plan = made.plan("a")
    nothing, two = plan.predict(["a b", "a ! new !"])
    assert nothing == {"a": {"masked": []}}
    inputs = batch(made, "a ! new !")
    probabilities = plan(**inputs)["a"].logits[0].softmax(-1).detach()
    for place, said in zip((2, 4), two["a"]["masked"], strict=True):
        assert [each["id"] for each in said] == probabilities[place].topk(5).indices.tolist()
        assert said[0]["token"] == PIECES[said[0]["id"]]
        assert math.isclose(said[0]["probability"], float(probabilities[place].max()), rel_tol=1e-6)
    long = plan.predict([" ".join(["a", "!"] * 20)], stride=4)[0]["a"]["masked"]
    assert len(long) == 20 and all(len(each) == 5 for each in long)


def test_invertible_adapters_are_undone_before_a_tied_map() -> None:
    made = model()
    inputs, head = batch(made, "a new"), made.heads["a"]
    states = made.plan("a").states(**inputs).last_hidden_state
    part = made.adapters["a"].part(*made.spec.embed_key)
    hidden = part.inverse(head.hidden(HeadInput(states)))
    expected = F.linear(hidden, made.backbone.get_input_embeddings().weight, head.out.bias)
    torch.testing.assert_close(made.plan("a")(**inputs)["a"].logits, expected, rtol=1e-9, atol=1e-9)


def test_adapterhubs_format_has_the_matrix(tmp_path: Path) -> None:
    made = model()
    made.save_head("a", tmp_path / "head", format="adapterhub")
    tensors = load_file(tmp_path / "head" / "model_head.safetensors")
    torch.testing.assert_close(tensors["heads.a.3.weight"], made.backbone.get_input_embeddings().weight.detach())
    assert made.load_head(tmp_path / "head", "b") == "b" and not made.heads["b"].config.tied
    inputs = batch(made, "a new")
    out = made.plan("Parallel(a='a', b='a')")(**inputs)
    torch.testing.assert_close(out["b"].logits, out["a"].logits, rtol=1e-9, atol=1e-9)
    theirs = {"activation_function": "gelu", "bias": True, "embedding_size": 16, "head_type": "masked_lm"}
    theirs |= {"label2id": None, "layer_norm": True, "layers": 2, "shift_labels": False, "vocab_size": 64}
    found = from_adapterhub_config(theirs, "bert")
    assert found == make_head_config("masked_lm", tied=False, embedding_size=16, vocabulary=64)
