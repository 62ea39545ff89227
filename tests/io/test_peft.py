"""PEFT's folders: it computes what we compute from files of ours, and we from its."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from compose.errors import FileError
from compose.io.peft.patterns import find, short_names
from compose.methods.lora.spec import LoraConfig
from compose.runtime.attach import attach
from compose.runtime.model import Model
from tests import tiny
from tests.io.folders import same

ARCHITECTURES = tuple(tiny.CONFIGS)
TEXT = tuple(name for name in ARCHITECTURES if name != "vit")

QUERIES = {
    "bert": ["query", "value"],
    "roberta": ["query", "key"],
    "distilbert": ["q_lin", "lin2"],
    "gpt2": ["c_attn"],
    "llama": ["q_proj", "v_proj", "o_proj", "down_proj"],
    "t5": ["q", "v", "wo"],
    "vit": ["q_proj", "fc1"],
}
EVERY = {
    "bert": ["query", "key", "value", "attention.output.dense", "intermediate.dense"],
    "roberta": r".*layer\.\d+\.(attention|intermediate).*(query|dense)",
    "distilbert": ["q_lin", "k_lin", "v_lin", "out_lin", "lin1", "lin2"],
    "gpt2": ["c_attn", "c_proj", "c_fc"],
    "llama": ["q_proj", "k_proj", "up_proj"],
    "t5": ["SelfAttention.q", "EncDecAttention.o", "wi"],
    "vit": ["q_proj", "k_proj", "v_proj", "o_proj", "fc2"],
}
SOME = {name: (targets if isinstance(targets, list) else ["query"]) for name, targets in EVERY.items()}

THEIRS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": (QUERIES, {"r": 4, "lora_alpha": 6}),
    "every map": (EVERY, {"r": 3, "lora_alpha": 16}),
    "rslora": (QUERIES, {"r": 5, "lora_alpha": 16, "use_rslora": True}),
    "layers": (SOME, {"r": 2, "layers_to_transform": [1]}),
    "fresh": (QUERIES, {"r": 4}),
}


def states(model: Model, adapter: str | None) -> Tensor:
    inputs = tiny.inputs(model.spec.architecture, padded=True)
    with torch.no_grad():
        return model.plan(adapter).states(**inputs).last_hidden_state


def their_states(model: Any, architecture: str) -> Tensor:
    with torch.no_grad():
        return model.eval()(**tiny.inputs(architecture, padded=True)).last_hidden_state


def quietly(make: Any, *args: Any, **options: Any) -> Any:
    """PEFT warns of many things that do not matter here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make(*args, **options)


def write_theirs(folder: Path, architecture: str, drawn: bool = True, **options: Any) -> Tensor:
    """A folder of PEFT's over a bare backbone; what it computes."""
    backbone = tiny.backbone(architecture)
    made = quietly(peft.get_peft_model, backbone, peft.LoraConfig(**options)).double()
    if drawn:
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for name, parameter in made.named_parameters():
                if "lora_" in name:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    quietly(made.save_pretrained, folder)
    return their_states(made, architecture)


def ours(architecture: str) -> Model:
    return tiny.model(architecture)


def close(found: Tensor, expected: Tensor) -> None:
    """Equal but for what PEFT loses when it loads weights in float32."""
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("case", "architecture"),
    # PEFT finds the layers of these bare models only
    [
        (case, name)
        for case in THEIRS
        for name in ARCHITECTURES
        if case != "layers" or name not in ("gpt2", "llama", "vit")
    ],
)
def test_we_compute_what_peft_does(tmp_path: Path, architecture: str, case: str) -> None:
    targets, options = THEIRS[case]
    theirs = write_theirs(
        tmp_path / "a", architecture, case != "fresh", target_modules=targets[architecture], **options
    )
    model = ours(architecture)
    assert model.load_adapter(tmp_path / "a") == "a"
    close(states(model, "a"), theirs)
    if case != "fresh":
        assert (states(model, "a") - states(model, None)).abs().max() > 1e-3


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "t5"])
def test_ranks_and_scalings_of_its_own_for_a_module(tmp_path: Path, architecture: str) -> None:
    """The ranks are filled up, the scalings go into the weights."""
    first, *others = SOME[architecture]
    patterns = {"rank_pattern": {first: 2, others[0]: 6}, "alpha_pattern": {first: 3, f"0.{others[-1]}": 5}}
    theirs = write_theirs(tmp_path, architecture, target_modules=SOME[architecture], r=4, lora_alpha=8, **patterns)
    model = ours(architecture)
    model.load_adapter(tmp_path, "a")
    config = model.adapters["a"].config
    assert isinstance(config, LoraConfig) and config.r == 6
    close(states(model, "a"), theirs)
    model.save_adapter("a", tmp_path / "again", format="peft")
    close(loaded(tmp_path / "again", architecture), theirs)


def loaded(folder: Path, architecture: str) -> Tensor:
    """What PEFT computes from a folder, after its own loader found every weight in its place."""
    backbone = tiny.backbone(architecture)
    made = quietly(peft.PeftModel.from_pretrained, backbone, folder).double()
    stored = load_file(folder / "adapter_model.safetensors")
    assert peft.get_peft_model_state_dict(made).keys() == stored.keys()
    return their_states(made, architecture)


OURS: dict[str, dict[str, Any]] = {
    "lora": {"alpha": 12},
    "every map": {
        "attn_matrices": ["q", "k", "v", "o"],
        "intermediate_lora": True,
        "output_lora": True,
        "r": 3,
        "alpha": 7.5,
    },
    "last map": {"selfattn_lora": False, "output_lora": True, "leave_out": [0]},
    "one": {"attn_matrices": ["k"], "leave_out": [1], "r": 2},
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("case", OURS)
def test_peft_computes_what_we_do(tmp_path: Path, architecture: str, case: str) -> None:
    model = ours(architecture)
    tiny.randomize(model.add_adapter("a", "lora", **OURS[case]))
    model.save_adapter("a", tmp_path, format="peft")
    close(loaded(tmp_path, architecture), states(model, "a"))
    model.load_adapter(tmp_path, "b")
    assert same(model.adapters["a"].tensors(), model.adapters["b"].tensors())
    first, second = (model.adapters[name].config for name in "ab")
    assert isinstance(first, LoraConfig) and isinstance(second, LoraConfig)
    assert (first.attn_matrices if first.selfattn_lora else (), first.r, first.leave_out) == (
        second.attn_matrices,
        second.r,
        second.leave_out,
    )
    assert first.scale == pytest.approx(second.scale, rel=1e-12)


def test_a_fused_map(tmp_path: Path) -> None:
    """GPT-2's q, k and v share one A in PEFT; read and written again, the file is the same."""
    write_theirs(tmp_path / "a", "gpt2", target_modules=["c_attn"], r=4)
    model = ours("gpt2")
    model.load_adapter(tmp_path / "a")
    tensors = model.adapters["a"].tensors()
    assert tensors["0.attn.q.a"].equal(tensors["0.attn.k.a"]) and tensors["0.attn.q.b"].shape == (32, 4)
    model.save_adapter("a", tmp_path / "b", format="peft")
    first, second = (load_file(tmp_path / name / "adapter_model.safetensors") for name in "ab")
    assert same(first, second) and first["base_model.model.h.0.attn.c_attn.lora_A.weight"].shape == (4, 32)
    tiny.randomize(model.adapters["a"])  # now they have an A each: three ranks in one
    model.save_adapter("a", tmp_path / "c", format="peft")
    third = load_file(tmp_path / "c" / "adapter_model.safetensors")
    assert third["base_model.model.h.0.attn.c_attn.lora_A.weight"].shape == (12, 32)
    config = json.loads((tmp_path / "c" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["rank_pattern"]) == (12, 24, {})
    close(loaded(tmp_path / "c", "gpt2"), states(model, "a"))


TARGETS = {
    ("bert", "AutoModelForSequenceClassification"): ("SEQ_CLS", ["query"], None),
    ("bert", "AutoModelForTokenClassification"): ("TOKEN_CLS", ["query"], None),
    ("roberta", "AutoModelForSequenceClassification"): ("SEQ_CLS", ["query"], None),
    ("roberta", "AutoModelForTokenClassification"): ("TOKEN_CLS", ["query"], None),
    ("distilbert", "AutoModelForSequenceClassification"): ("SEQ_CLS", ["q_lin"], ["pre_classifier", "classifier"]),
    ("distilbert", "AutoModelForTokenClassification"): ("TOKEN_CLS", ["q_lin"], None),
    ("gpt2", "AutoModelForSequenceClassification"): ("SEQ_CLS", ["c_attn"], None),
    ("gpt2", "AutoModelForTokenClassification"): ("TOKEN_CLS", ["c_attn"], None),
    ("llama", "AutoModelForSequenceClassification"): ("SEQ_CLS", ["q_proj"], None),
    ("llama", "AutoModelForTokenClassification"): ("TOKEN_CLS", ["q_proj"], None),
    ("vit", "AutoModelForImageClassification"): (None, ["q_proj"], ["classifier"]),
}


@pytest.mark.parametrize(("architecture", "name"), TARGETS)
def test_heads(tmp_path: Path, architecture: str, name: str) -> None:
    """Of transformers' models with a head: the head is ours, and ours goes back into theirs."""
    task, targets, saved = TARGETS[architecture, name]
    torch.manual_seed(1)
    config = tiny.CONFIGS[architecture](2)
    config.num_labels = 3
    config.pad_token_id = 1
    model = getattr(transformers, name).from_config(config).double().eval()
    options = peft.LoraConfig(task_type=task, target_modules=targets, modules_to_save=saved)
    made = quietly(peft.get_peft_model, model, options).double()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    quietly(made.save_pretrained, tmp_path / "a")
    inputs = tiny.inputs(architecture)
    with torch.no_grad():
        expected = made.eval()(**inputs).logits
    with torch.no_grad():
        ours = attach(quietly(made.unload).base_model)
        ours.load_adapter(tmp_path / "a", with_head=True)
        close(ours.plan("a")(**inputs)[0].logits, expected)
        ours.save_adapter("a", tmp_path / "b", with_head=True, format="peft")
        ours.detach()
        again = getattr(transformers, name).from_config(config).double()
        again.base_model.load_state_dict(ours.backbone.state_dict())
        again = quietly(peft.PeftModel.from_pretrained, again, tmp_path / "b")
        close(again.double().eval()(**inputs).logits, expected)
    assert len(ours.heads["a"].labels) == 3
    assert ours.load_adapter(tmp_path / "a", "without") == "without" and "without" not in ours.heads


@pytest.mark.parametrize(
    ("architecture", "task_type", "name"),
    [
        ("gpt2", "CAUSAL_LM", "AutoModelForCausalLM"),
        ("llama", "CAUSAL_LM", "AutoModelForCausalLM"),
        ("t5", "SEQ_2_SEQ_LM", "AutoModelForSeq2SeqLM"),
        ("bert", "FEATURE_EXTRACTION", "AutoModel"),
    ],
)
def test_the_model_that_will_load_it(tmp_path: Path, architecture: str, task_type: str, name: str) -> None:
    model = ours(architecture)
    tiny.randomize(model.add_adapter("a", "lora"))
    model.save_adapter("a", tmp_path, format="peft", task_type=task_type)
    theirs = getattr(transformers, name).from_config(tiny.CONFIGS[architecture](2))
    made = quietly(peft.PeftModel.from_pretrained, theirs, tmp_path)
    stored = load_file(tmp_path / "adapter_model.safetensors")
    inside = {key: value.double() for key, value in peft.get_peft_model_state_dict(made).items() if "lora_" in key}
    assert same(inside, {key: value.float().double() for key, value in stored.items()})
    assert model.load_adapter(tmp_path, "b") == "b"


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_theirs(tmp_path / "a", "bert", target_modules=["query"], r=4)
    return tmp_path / "a"


def test_names_of_other_versions(tmp_path: Path) -> None:
    """ViT's modules had other names before transformers 5."""
    theirs = write_theirs(tmp_path, "vit", target_modules=["q_proj", "fc1"])
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    older = {
        "layers.": "vit.encoder.layer.",
        "attention.q_proj": "attention.attention.query",
        "mlp.fc1": "intermediate.dense",
    }
    for new, old in older.items():
        tensors = {key.replace(new, old): tensor for key, tensor in tensors.items()}
    save_file(tensors, path)
    model = ours("vit")
    model.load_adapter(tmp_path, "a")
    close(states(model, "a"), theirs)


@pytest.mark.parametrize("name", ["lora", "lora_A", "weight", "default"])
def test_names_that_look_like_parts_of_keys(tmp_path: Path, name: str) -> None:
    """P11: an adapter of PEFT's called as its keys are; another name than `default` has a folder of its own."""
    backbone = tiny.backbone("bert")
    made = quietly(peft.get_peft_model, backbone, peft.LoraConfig(target_modules=["query"]), adapter_name=name).double()
    tiny.randomize(made.base_model.model.encoder.layer[0].attention.self.query.lora_B)
    quietly(made.save_pretrained, tmp_path)
    model = ours("bert")
    assert model.load_adapter(tmp_path if name == "default" else tmp_path / name, name) == name
    close(states(model, name), their_states(made, "bert"))


def test_torch_files(folder: Path) -> None:
    """Older folders have an `adapter_model.bin`; a folder that we write over keeps none."""
    model = ours("bert")
    model.load_adapter(folder, "a")
    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()
    model.load_adapter(folder, "b")
    assert same(model.adapters["a"].tensors(), model.adapters["b"].tensors())
    model.save_adapter("a", folder, format="peft")
    assert {path.name for path in folder.glob("adapter_model*")} == {"adapter_model.safetensors"}


def test_modules_to_save_named_twice(folder: Path) -> None:
    """P10: PEFT writes names twice; we read that, and write them once."""
    path = folder / "adapter_model.safetensors"
    head = {"base_model.model.classifier.weight": torch.ones(3, 32), "base_model.model.classifier.bias": torch.ones(3)}
    save_file(load_file(path) | head, path)
    edit(folder, modules_to_save=["classifier", "score", "classifier", "score"], task_type="SEQ_CLS")
    model = ours("bert")
    model.load_adapter(folder, with_head=True)
    assert model.heads["a"].config.use_pooler
    model.save_adapter("a", folder / "new", with_head=True, format="peft")
    assert json.loads((folder / "new" / "adapter_config.json").read_text())["modules_to_save"] == ["classifier"]


def test_keys_that_are_missing_or_too_many(folder: Path) -> None:
    """P11: an error, not a warning."""
    path, model = folder / "adapter_model.safetensors", ours("bert")
    tensors = load_file(path)
    key = "base_model.model.encoder.layer.0.attention.self.query.lora_B.weight"
    for changed, message in (
        ({name: tensor for name, tensor in tensors.items() if name != key}, r"query: 'lora_B.weight' is missing"),
        (tensors | {"base_model.model.pooler.dense.lora_A.weight": torch.ones(4, 32)}, "no such linear map"),
        (tensors | {"base_model.model.embeddings.lora_embedding_A": torch.ones(4, 32)}, "is called so"),
        (tensors | {"base_model.model.classifier.weight": torch.ones(4, 32)}, "classifier.weight' has no place"),
        (tensors | {"base_model.lora_A.weight": torch.ones(4, 32)}, "lora_A.weight' has no place"),
        (tensors | {key: torch.ones(32, 5)}, "have the shapes"),
        ({}, "holds no weights"),
    ):
        save_file(changed, path)
        with pytest.raises(FileError, match=message):
            model.load_adapter(folder)
    path.unlink()
    with pytest.raises(FileError, match="the weights are missing"):
        model.load_adapter(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "LOHA"}, "PEFT's LOHA cannot be read"),
        ({"use_dora": True}, "'lora_magnitude_vector' is missing"),
        ({"bias": "all"}, "trained biases"),
        ({"init_lora_weights": "pissa"}, "changes the backbone's own weights"),
        ({"target_parameters": ["x"]}, "adapted parameters"),
        ({"alpha_pattern": {"(a+)+$": 3}}, "a regular expression from a file is not run"),
        ({"rank_pattern": {"query": "x"}}, "not a number above 0"),
        ({"rank_pattern": []}, "not a table"),
        ({"rank_pattern": {"query": 7}}, "have the shapes"),
        ({"modules_to_save": "classifier"}, "not a list of names"),
        ({"lora_dropout": 1.5}, "dropout"),
        ({"r": "many"}, "'r' is 'many'"),
        ({"lora_alpha": None}, "'lora_alpha' is None"),
    ],
)
def test_what_is_refused(folder: Path, changes: dict[str, Any], message: str) -> None:
    edit(folder, **changes)
    with pytest.raises(FileError, match=message.replace("+", r"\+")):
        ours("bert").load_adapter(folder)


def test_what_peft_cannot_say(tmp_path: Path) -> None:
    model = ours("bert")
    model.add_adapter("gated", "lora", use_gating=True)
    model.add_adapter("bottleneck", "seq_bn")
    model.add_adapter("a", "lora")
    model.add_head("a", layers=2)
    model.add_adapter("lm", "lora")
    model.add_head("lm", "causal_lm")
    for name, options, message in (
        ("gated", {}, "no gate"),
        ("bottleneck", {}, "cannot be written in PEFT's format"),
        ("a", {"with_head": True}, "BertForSequenceClassification has layers=1, this one 2"),
        ("lm", {"with_head": True}, "none of these for 'bert' is of kind 'causal_lm'"),
        ("a", {"task_type": "DANCE"}, "no task_type 'DANCE'"),
        ("a", {"task_type": "SEQ_CLS"}, "looks for the head"),
    ):
        with pytest.raises(FileError, match=message):
            model.save_adapter(name, tmp_path, format="peft", **options)
    with pytest.raises(FileError, match="PEFT's format has no head"):
        model.save_head("a", tmp_path, format="peft")
    with pytest.raises(FileError, match="PEFT's format has no composition"):
        model.plan("a").save(tmp_path, format="peft")
    assert not list(tmp_path.iterdir())


def test_patterns() -> None:
    assert find({"b.c": 1, "c": 2}, "a.b.c", 0) == 1
    assert find({r"^a\.b\.c": 3}, "a.b.c", 0) == 3
    assert find({"b": 1}, "a.bb", 0) == 0
    # a name that would mean another module too is written in full
    assert short_names(["layer.0.output.dense"], ["layer.0.output.dense", "layer.0.attention.output.dense"]) == [
        "layer.0.output.dense"
    ]
