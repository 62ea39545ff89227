"""PEFT's prompts and prefixes: it computes what we compute from files of ours, and we from its."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from compose.dsl import Parallel, Route, Stack
from compose.errors import CompileError, ConfigError, FileError, InputError
from compose.runtime.attach import attach
from compose.runtime.model import Model
from tests import tiny
from tests.io.folders import same
from tests.io.test_peft import close, quietly

LENGTH = 3
PREFIXES = ("bert", "roberta", "gpt2", "llama", "t5")
PROMPTS = (*PREFIXES, "distilbert")
TASK = {"t5": "SEQ_2_SEQ_LM"}


def their_backbone(architecture: str) -> Any:
    """A model that PEFT has a wrapper for: of T5 the one with a vocabulary head."""
    torch.manual_seed(0)
    config = tiny.CONFIGS[architecture](2)
    kind = "AutoModelForSeq2SeqLM" if architecture == "t5" else "AutoModel"
    return getattr(transformers, kind).from_config(config).double().eval()


def their_states(theirs: Any, architecture: str) -> Tensor:
    inputs = tiny.inputs(architecture, padded=True)
    with torch.no_grad():
        if architecture == "t5":
            out = theirs.eval()(**inputs, output_hidden_states=True)
            return out.decoder_hidden_states[-1]
        return theirs.eval()(**inputs).last_hidden_state


def ours(architecture: str) -> Model:
    """Our model over the backbone that `their_backbone` gives."""
    theirs = their_backbone(architecture)
    if architecture != "t5":
        return attach(theirs)
    backbone = transformers.T5Model(theirs.config).double().eval()
    backbone.load_state_dict({key: value for key, value in theirs.state_dict().items() if key != "lm_head.weight"})
    return attach(backbone)


def states(model: Model, expression: Any) -> Tensor:
    inputs = tiny.inputs(model.spec.architecture, padded=True)
    with torch.no_grad():
        return model.plan(expression).states(**inputs).last_hidden_state


def write_theirs(folder: Path, architecture: str, config: peft.PeftConfig) -> Tensor:
    """A folder of PEFT's; what it computes."""
    theirs = quietly(peft.get_peft_model, their_backbone(architecture), config).double()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in theirs.prompt_encoder.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.7)
    quietly(theirs.save_pretrained, folder)
    return their_states(theirs, architecture)


def loaded(folder: Path, architecture: str) -> Tensor:
    """What PEFT computes from a folder."""
    theirs = quietly(peft.PeftModel.from_pretrained, their_backbone(architecture), folder).double()
    return their_states(theirs, architecture)


def agree(found: Tensor, expected: Tensor, architecture: str) -> None:
    """Equal wherever there is a token; only T5's decoder has no padding here."""
    mask = tiny.inputs(architecture, padded=True)["attention_mask"].bool()
    if architecture != "t5":
        more = found.shape[1] - mask.shape[1]
        mask = torch.cat([mask.new_ones(len(mask), more), mask], dim=1)
        found, expected = found[mask], expected[mask]
    close(found, expected)


@pytest.mark.parametrize("architecture", PREFIXES)
@pytest.mark.parametrize("projection", [False, True])
def test_we_compute_what_pefts_prefixes_do(tmp_path: Path, architecture: str, projection: bool) -> None:
    config = peft.PrefixTuningConfig(
        task_type=TASK.get(architecture, "FEATURE_EXTRACTION"),
        num_virtual_tokens=LENGTH,
        prefix_projection=projection,
        encoder_hidden_size=6,
    )
    theirs = write_theirs(tmp_path / "a", architecture, config)
    model = ours(architecture)
    assert model.load_adapter(tmp_path / "a") == "a"
    agree(states(model, "a"), theirs, architecture)
    assert (states(model, "a") - states(model, None)).abs().max() > 1e-3
    model.save_adapter("a", tmp_path / "b", format="peft")
    agree(loaded(tmp_path / "b", architecture), theirs, architecture)


@pytest.mark.parametrize("architecture", PREFIXES)
@pytest.mark.parametrize("flat", [False, True])
def test_peft_computes_what_our_prefixes_do(tmp_path: Path, architecture: str, flat: bool) -> None:
    model = ours(architecture)
    options: dict[str, Any] = {"prefix_length": LENGTH, "bottleneck_size": 5, "flat": flat}
    if architecture != "llama":
        options["counted"] = True
    if architecture == "t5":
        options |= {"encoder_prefix": False, "cross_prefix": False}
    tiny.randomize(model.add_adapter("a", "prefix_tuning", **options))
    if architecture == "t5":
        share_between_layers(model)
    model.save_adapter("a", tmp_path, format="peft")
    agree(loaded(tmp_path, architecture), states(model, "a"), architecture)
    model.load_adapter(tmp_path, "b")
    agree(states(model, "b"), states(model, "a"), architecture)


def share_between_layers(model: Model) -> None:
    """PEFT gives both of the decoder's layers what it keeps for the first."""
    tensors = model.adapters["a"].tensors()
    for name, tensor in tensors.items():
        if name.startswith("3."):
            tensor.copy_(tensors[name.replace("3.", "2.", 1)])


@pytest.mark.parametrize("architecture", PROMPTS)
def test_prompts_both_ways(tmp_path: Path, architecture: str) -> None:
    task = TASK.get(architecture, "FEATURE_EXTRACTION")
    told = (
        {"token_dim": 32, "num_attention_heads": 4} if architecture == "distilbert" else {}
    )  # PEFT does not find them
    config = peft.PromptTuningConfig(task_type=task, num_virtual_tokens=LENGTH, **told)
    theirs = write_theirs(tmp_path / "a", architecture, config)
    model = ours(architecture)
    model.load_adapter(tmp_path / "a")
    agree(states(model, "a"), theirs, architecture)
    model.save_adapter("a", tmp_path / "b", format="peft")
    agree(loaded(tmp_path / "b", architecture), theirs, architecture)
    tiny.randomize(model.add_adapter("own", "prompt_tuning", prompt_length=4, as_words=True))
    model.save_adapter("own", tmp_path / "own", format="peft")
    agree(loaded(tmp_path / "own", architecture), states(model, "own"), architecture)


@pytest.mark.parametrize("kind", ["MLP", "LSTM"])
def test_what_p_tunings_encoder_makes_is_a_prompt(tmp_path: Path, kind: str) -> None:
    config = peft.PromptEncoderConfig(
        task_type="FEATURE_EXTRACTION",
        num_virtual_tokens=LENGTH,
        encoder_reparameterization_type=kind,
        encoder_hidden_size=6,
        encoder_dropout=0.0,
    )
    theirs = write_theirs(tmp_path / "a", "gpt2", config)
    model = ours("gpt2")
    model.load_adapter(tmp_path / "a")
    assert model.adapters["a"].config.method == "prompt_tuning"
    agree(states(model, "a"), theirs, "gpt2")


def test_a_classifier_beside_a_prefix(tmp_path: Path) -> None:
    torch.manual_seed(1)
    config = tiny.CONFIGS["bert"](2)
    config.num_labels = 3
    theirs = transformers.AutoModelForSequenceClassification.from_config(config).double().eval()
    options = peft.PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=LENGTH)
    made = quietly(peft.get_peft_model, theirs, options).double()
    quietly(made.save_pretrained, tmp_path / "a")
    inputs = tiny.inputs("bert")
    with torch.no_grad():
        expected = made.eval()(**inputs).logits
        model = attach(made.get_base_model().base_model)
        model.load_adapter(tmp_path / "a", with_head=True)
        close(model.plan("a")(**inputs)[0].logits, expected)
        model.save_adapter("a", tmp_path / "b", with_head=True, format="peft")
    assert same(*(load_file(tmp_path / name / "adapter_model.safetensors") for name in "ab"))


@pytest.mark.parametrize("architecture", ["bert", "roberta", "gpt2", "t5"])
def test_counted_prefixes_side_by_side_and_one_after_the_other(architecture: str) -> None:
    """Each branch is its single run, whatever the lengths; of a Stack the text comes after all virtual tokens."""
    model = tiny.model(architecture)
    extra = {"encoder_prefix": False, "cross_prefix": False} if architecture == "t5" else {}
    for seed, (name, length) in enumerate({"a": 3, "b": 5, "ab": 8}.items()):
        options = {"prefix_length": length, "flat": True, "counted": True, **extra}
        tiny.randomize(model.add_adapter(name, "prefix_tuning", **options), seed)
    tensors = {name: model.adapters[name].tensors() for name in ("a", "b", "ab")}
    for name, tensor in tensors["ab"].items():  # what is stacked on top stands before what is there
        tensor.copy_(torch.cat([tensors["b"][name], tensors["a"][name]], dim=1))
    side = states(model, Parallel("a", "b", plain=None)).chunk(3)
    for branch, name in zip(side, ("a", "b", None), strict=True):
        torch.testing.assert_close(branch, states(model, name), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(states(model, Stack("a", "b")), states(model, "ab"), rtol=1e-9, atol=1e-9)
    rows = [states(model, name)[row] for row, name in enumerate(("a", "b", None))]
    routed = Route(a="a", b="b", c=None)
    inputs = tiny.inputs(architecture, padded=True)
    with torch.no_grad():
        found = model.plan(routed).states(**inputs, route=["a", "b", "c"]).last_hidden_state
    torch.testing.assert_close(found, torch.stack(rows), rtol=1e-9, atol=1e-9)


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_virtual_tokens": 4}, r"of shape \(3, 32\), not \(4, 32\)"),
        ({"num_virtual_tokens": None}, "'num_virtual_tokens' is None"),
        ({"num_transformer_submodules": 7}, "'num_transformer_submodules' is 7"),
        ({"peft_type": "LN_TUNING"}, "PEFT's LN_TUNING cannot be read"),
        ({"peft_type": "PREFIX_TUNING"}, r"of shape \(3, 32\), not \(3, 128\)"),
    ],
)
def test_what_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write_theirs(tmp_path, "bert", peft.PromptTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=LENGTH))
    edit(tmp_path, **changes)
    with pytest.raises(FileError, match=message) as caught:
        ours("bert").load_adapter(tmp_path)
    if "peft_type" in changes and "LN" in changes["peft_type"]:
        assert "LORA" in str(caught.value) and "PREFIX_TUNING" in str(caught.value)


def test_a_tensor_too_many(tmp_path: Path) -> None:
    write_theirs(tmp_path, "bert", peft.PromptTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=LENGTH))
    path = tmp_path / "adapter_model.safetensors"
    save_file(load_file(path) | {"prompt_encoder.default.embedding.weight": torch.ones(3, 32)}, path)
    with pytest.raises(FileError, match="has no place"):
        ours("bert").load_adapter(tmp_path)


@pytest.mark.parametrize(
    ("architecture", "method", "options", "message"),
    [
        ("bert", "prompt_tuning", {}, "no as_words=False on 'bert'"),
        ("bert", "prompt_tuning", {"combine": "prefix_after_bos"}, "no combine='prefix_after_bos'"),
        ("bert", "prompt_tuning", {"adapterhub_mask": True}, "no adapterhub_mask=True"),
        ("gpt2", "prefix_tuning", {}, "no counted=False"),
        ("gpt2", "prefix_tuning", {"counted": True, "use_gating": True}, "no gate"),
        ("gpt2", "prefix_tuning", {"counted": True, "leave_out": [0]}, "leave no layer out"),
        ("t5", "prefix_tuning", {"counted": True}, "no encoder_prefix or cross_prefix"),
        (
            "t5",
            "prefix_tuning",
            {"counted": True, "encoder_prefix": False, "cross_prefix": False},
            "cannot give layer 3 a prefix of its own",
        ),
        ("distilbert", "prefix_tuning", {}, "architecture 'distilbert'"),
    ],
)
def test_what_peft_cannot_say(
    tmp_path: Path, architecture: str, method: str, options: dict[str, Any], message: str
) -> None:
    model = tiny.model(architecture)
    tiny.randomize(model.add_adapter("a", method, **options))
    with pytest.raises(FileError, match=message):
        model.save_adapter("a", tmp_path, format="peft")
    assert not list(tmp_path.iterdir())


def test_what_has_no_meaning() -> None:
    llama, t5, bert = (tiny.model(architecture) for architecture in ("llama", "t5", "bert"))
    with pytest.raises(ConfigError, match="counted=True has no meaning on a backbone of architecture 'llama'"):
        llama.add_adapter("a", "prefix_tuning", counted=True)
    with pytest.raises(ConfigError, match="as_words=True has no meaning with combine='prefix_after_bos'"):
        bert.add_adapter("a", "prompt_tuning", as_words=True, combine="prefix_after_bos")
    for name, counted in (("a", True), ("b", False)):
        t5.add_adapter(name, "prefix_tuning", flat=True, counted=counted)
    with pytest.raises(CompileError, match="the virtual tokens of 'a' are counted, those of 'b' are not"):
        t5.plan(Parallel("a", "b"))
    bert.add_adapter("long", "prefix_tuning", flat=True, counted=True, prefix_length=60)
    with pytest.raises(InputError, match="7 tokens after 60 virtual ones, but the backbone has positions for 64"):
        bert.plan("long").states(**tiny.inputs("bert"))


@pytest.mark.parametrize("architecture", ["bert", "roberta", "gpt2", "llama", "t5"])
def test_prompts_of_words_side_by_side(architecture: str) -> None:
    model = tiny.model(architecture)
    for seed, (name, length) in enumerate({"a": 3, "b": 5}.items()):
        tiny.randomize(model.add_adapter(name, "prompt_tuning", prompt_length=length, as_words=True), seed)
    model.add_adapter("other", "prompt_tuning", prompt_length=5)
    inputs = tiny.inputs(architecture)
    tokens = inputs["input_ids"].shape[1]
    side = states(model, Parallel("a", "b", "other", plain=None)).chunk(4)
    for branch, name in zip(side, ("a", "b", "other", None), strict=True):
        alone = states(model, name)
        if architecture == "t5":  # the decoder's rows are as long as before
            torch.testing.assert_close(branch, alone, rtol=1e-9, atol=1e-9)
        else:
            own = alone.shape[1] - tokens
            torch.testing.assert_close(branch[0, : own + tokens], alone[0], rtol=1e-9, atol=1e-9)


def test_training_a_prompt_of_words_and_a_counted_prefix() -> None:
    """Gradients come to the vectors through the embeddings; the backbone is as it was."""
    model = tiny.model("bert")
    model.add_adapter("p", "prompt_tuning", prompt_length=2, as_words=True)
    model.add_adapter("q", "prefix_tuning", prefix_length=2, flat=True, counted=True)
    before = {name: tensor.clone() for name, tensor in model.backbone.state_dict().items()}
    model.train_only(Stack("q", "p"))
    loss = model.plan(Stack("q", "p")).states(**tiny.inputs("bert")).last_hidden_state.pow(3).sum()
    loss.backward()
    for name in ("p", "q"):
        for parameter in model.adapters[name].parameters():
            assert parameter.grad is not None and parameter.grad.abs().max() > 1e-6
    assert all(tensor.equal(before[name]) for name, tensor in model.backbone.state_dict().items())
