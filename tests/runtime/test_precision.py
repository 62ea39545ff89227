"""The frozen backbone in bf16: adapters beside it stay in float32, files fit both, and the answers agree."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import compose
from compose.dsl import Fuse, Parallel, Stack
from compose.errors import ConfigError, InputError
from compose.runtime import precision
from compose.runtime.agreement import agreement, decision
from compose.runtime.model import Model
from tests import tiny

pytestmark = pytest.mark.filterwarnings("ignore::compose.runtime.precision.SlowPrecisionWarning")

EXPRESSION = Parallel("a", Fuse("a", "b"), t=Stack("lora", "b"))


def backbone(architecture: str = "bert") -> Any:
    return tiny.backbone(architecture, dtype=torch.float32)


def filled(model: Model) -> Model:
    for seed, (name, method) in enumerate((("a", "seq_bn"), ("b", "double_seq_bn"), ("lora", "lora"))):
        tiny.randomize(model.add_adapter(name, method), seed, 0.1)
    tiny.randomize(model.add_fusion(Fuse("a", "b")), 7, 0.1)
    tiny.randomize(model.add_head("a", labels=3, pooling="first", dropout=0.0), 8, 0.5)
    return model


def last(plan: Any, inputs: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = plan.states(**inputs).last_hidden_state
    return found


def test_attaching_in_bf16_leaves_the_callers_model_alone() -> None:
    """Rounded weights could not be given back; so they are a copy's."""
    own = backbone()
    before = {name: tensor.clone() for name, tensor in own.state_dict().items()}
    model = filled(compose.attach(own, precision="bf16"))
    assert model.backbone is not own and model.precision == "bf16" and model.config.dtype == torch.bfloat16
    assert all(torch.equal(tensor, before[name]) for name, tensor in own.state_dict().items())
    assert {p.dtype for p in own.parameters()} == {torch.float32} and all(p.requires_grad for p in own.parameters())
    rounded = {name: p.clone() for name, p in model.backbone.named_parameters()}
    assert all(torch.equal(p, before[name].bfloat16()) for name, p in rounded.items())
    model.plan("a").states(**tiny.inputs())
    given_back = model.detach()
    assert given_back is model.backbone
    for name, p in given_back.named_parameters():
        assert torch.equal(p, rounded[name]) and p.requires_grad
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in given_back.modules())


def test_beside_a_model_that_is_attached_already() -> None:
    """Two models of one float32 backbone, of which the second has a copy in bf16: neither sees the other."""
    own = backbone()
    full = filled(compose.attach(own))
    half = filled(compose.attach(own, precision="bf16"))
    expected = last(filled(compose.attach(backbone())).plan("a"), tiny.inputs())
    assert torch.equal(last(full.plan("a"), tiny.inputs()), expected)
    assert (last(half.plan("a"), tiny.inputs()).float() - expected).abs().max() < 0.2
    given_back = half.detach()
    assert all(p.requires_grad for p in given_back.parameters()) and full.hooks.installed
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in given_back.modules())


def test_a_model_that_has_the_precision_is_taken_as_it_is() -> None:
    own = backbone()
    assert compose.attach(own, precision="float32").backbone is own
    half = tiny.backbone(dtype=torch.bfloat16)
    assert compose.attach(half, precision="bf16").backbone is half
    assert compose.attach(half, precision="float32").backbone is not half
    assert compose.attach(tiny.backbone(dtype=torch.float64)).precision == "float64"


def test_tied_weights_stay_tied_and_tables_in_float32() -> None:
    model = compose.attach(backbone("t5"), precision="bf16")
    assert model.backbone.shared.weight is model.backbone.encoder.embed_tokens.weight  # type: ignore[union-attr]
    llama = compose.attach(backbone("llama"), precision="bf16").backbone
    frequencies = dict(llama.named_buffers())["rotary_emb.inv_freq"]
    assert frequencies.dtype == torch.float32 and {p.dtype for p in llama.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "t5", "vit", "llama"])
def test_what_is_ours_stays_in_float32(architecture: str) -> None:
    full, half = (filled(compose.attach(backbone(architecture), precision=name)) for name in precision.PRECISIONS)
    for modules in (half.adapters, half.fusions, half.heads):
        assert {p.dtype for p in modules.parameters()} == {torch.float32}
    inputs = tiny.inputs(architecture, padded=True, dtype=torch.float32)  # images too: callers need not convert
    expected, found = (last(model.plan(EXPRESSION), inputs) for model in (full, half))
    assert found.dtype == torch.bfloat16
    assert (found.float() - expected).norm() / expected.norm() < 0.05
    logits = half.plan("a")(**inputs)["a"].logits
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, full.plan("a")(**inputs)["a"].logits, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("architecture", ["bert", "gpt2"])
def test_a_prompt_of_words_beside_bf16(architecture: str) -> None:
    """The embeddings, which add positions to its float32 vectors, are bf16."""
    full, half = (compose.attach(backbone(architecture), precision=name) for name in precision.PRECISIONS)
    for model in (full, half):
        tiny.randomize(model.add_adapter("words", "prompt_tuning", prompt_length=3, as_words=True), 1, 0.1)
    inputs = tiny.inputs(architecture, padded=True, dtype=torch.float32)
    expected, found = (last(model.plan("words"), inputs) for model in (full, half))
    assert found.dtype == torch.bfloat16
    assert (found.float() - expected).norm() / expected.norm() < 0.05


def test_training_beside_a_bf16_backbone() -> None:
    model = filled(compose.attach(backbone(), precision="bf16"))
    model.train_only("a")
    frozen = {name: p.clone() for name, p in model.backbone.named_parameters()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    loss = model.plan("a")(**tiny.inputs(), labels=torch.tensor([0, 1, 2])).loss
    assert loss is not None and loss.dtype == torch.float32
    loss.backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.adapters["a"].parameters())
    optimizer.step()
    assert all(torch.equal(p, frozen[name]) for name, p in model.backbone.named_parameters())


def test_files_fit_both_precisions(tmp_path: Path) -> None:
    """The fingerprint is the same, so that what was saved beside one is loaded beside the other, byte for byte."""
    backbone().save_pretrained(tmp_path / "backbone")
    full = filled(compose.load(tmp_path / "backbone", precision="float32"))
    full.plan(Parallel("a")).save(tmp_path / "plan")
    plan = compose.load_plan(tmp_path / "plan", precision="bf16")
    assert plan.model.precision == "bf16"
    for name, tensor in full.adapters["a"].tensors().items():
        assert torch.equal(plan.model.adapters["a"].tensors()[name], tensor)
    plan.model.save_adapter("a", tmp_path / "again")
    full.delete_adapter("a")
    full.load_adapter(tmp_path / "again")
    close = last(full.plan("a"), tiny.inputs()) - last(plan, tiny.inputs()).float()
    assert close.abs().max() < 0.2
    with pytest.raises(ConfigError, match="bf16, not in float32"):
        compose.load_plan(tmp_path / "plan", plan.model, precision="float32")


@pytest.mark.parametrize("name", ["float16", "fp32", "bfloat16", "", "BF16"])
def test_other_names_are_refused(name: str, tmp_path: Path) -> None:
    own = backbone()
    for call in (lambda: compose.attach(own, precision=name), lambda: compose.load(tmp_path, precision=name)):
        with pytest.raises(ConfigError, match="there is no precision") as caught:
            call()
        assert set(caught.value.problems[0].legal) == {"float32", "bf16"}
    with pytest.raises(ConfigError, match="say the same thing"):
        compose.load(tmp_path, precision="bf16", dtype=torch.float32)


def test_a_cpu_without_bf16_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "has_native_bf16", lambda: False)
    with pytest.warns(precision.SlowPrecisionWarning, match="AVX512-BF16"):
        compose.attach(backbone(), precision="bf16")
    monkeypatch.setattr(precision, "has_native_bf16", lambda: True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compose.attach(backbone(), precision="bf16")
        compose.attach(backbone(), precision="float32")


class Answers:
    """A plan that gives what it was told to."""

    def __init__(self, *answers: dict[str, Any]) -> None:
        self.answers = answers

    def predict(self, inputs: Any, **options: Any) -> list[dict[Any, Any]]:
        return [self.answers[index] for index, _ in enumerate(inputs)]


def test_agreement() -> None:
    def labelled(label: str, p: float, value: float) -> dict[str, Any]:
        return {"topic": {"label": label, "probabilities": {"x": p, "y": 1 - p}}, "score": {"value": value}}

    one = Answers(*(labelled("x", 0.75, 1.0) for _ in range(4)))
    other = Answers(labelled("x", 0.5, 1.5), labelled("y", 0.25, 1.0), *(labelled("x", 0.75, 1.0) for _ in range(2)))
    found = agreement(one, other, ["t"] * 4)
    topic, score = found.tasks
    assert (topic.task, topic.inputs, topic.same, topic.share, topic.difference) == ("topic", 4, 3, 0.75, 0.5)
    assert (score.same, score.difference) == (None, 0.5)
    assert found.share == 0.75 and found.to_dict()["tasks"][0]["share"] == 0.75
    assert "75.00%" in str(found) and "s against" in str(found)
    with pytest.raises(InputError, match="no inputs"):
        agreement(one, other, [])
    with pytest.raises(InputError, match="no task in common"):
        agreement(one, Answers({"b": {"label": "x"}}), ["t"])


def test_decisions() -> None:
    entity = {"type": "city", "start": 0, "end": 4, "text": "Rome", "score": 0.9}
    assert decision({"entities": [entity]}) == (("city", 0, 4),)
    assert decision({"entities": [entity], "tags": ["B-city"]}) == ("B-city",)
    assert decision({"next": [{"token": "a", "id": 7, "probability": 0.5}]}) == 7
    assert decision({"answer": "a", "start": 3, "end": 4, "score": 1.0}) == (3, 4)
    assert decision({"logits": [0.1]}) is None
