"""AdapterHub's folders as we write them: what they hold, what comes back, and what cannot be said there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, load_file
from transformers import AutoConfig, AutoModel

import compose
from compose import Average, Drop, Fuse, Parallel, Route, Split, Stack
from compose.dsl import Expression
from compose.errors import FileError
from compose.io import AdapterRecord, BackboneModules, read_adapter, read_fusion, read_head
from compose.io.adapterhub import adapter_files, fusion_files, head_files
from compose.io.adapterhub.keys import KEYS
from compose.io.adapterhub.names import GRAMMARS
from compose.io.adapterhub.options import WRITERS
from compose.runtime.model import Model
from tests import tiny
from tests.golden_cases import ROOT, UNSAID
from tests.io.folders import same
from tests.test_golden import CASES, covered

TEXT = tuple(name for name in tiny.CONFIGS if name != "vit")
ADAPTERS: dict[str, tuple[str, dict[str, Any]]] = {
    "seq_bn": ("seq_bn", {"reduction_factor": {"0": 4, "default": 8}}),
    "double_seq_bn": ("double_seq_bn", {"cross_adapter": True, "leave_out": [1]}),
    "norms": ("seq_bn", {"ln_before": True, "ln_after": True, "use_gating": True, "adapter_residual_before_ln": True}),
    "learned": ("scaled_par_bn", {"non_linearity": "prelu"}),
    "size": ("seq_bn", {"bottleneck_size": 5}),
    "wide": ("seq_bn", {"bottleneck_size": 50}),
    "adapter_plus": ("adapter_plus", {}),
    "lora": ("lora", {}),
    "all maps": ("lora", {"attn_matrices": ["q", "k", "v"], "intermediate_lora": True, "r": 3, "alpha": 7.5}),
    "inv": ("double_seq_bn", {"inv_adapter": "nice"}),
    "glow": ("seq_bn", {"inv_adapter": "glow", "non_linearity": "prelu", "ln_before": True}),
    "compacter": ("compacter", {"reduction_factor": 4, "ln_before": True}),
    "compacter shared": (
        "compacter++",
        {"reduction_factor": 8, "shared_W_phm": True, "factorized_phm_rule": True},
    ),
    "compacter own": (
        "compacter",
        {"reduction_factor": 8, "shared_phm_rule": False, "factorized_phm_W": False, "inv_adapter": "nice"},
    ),
    "ia3": ("ia3", {"use_gating": True}),
    "mtl_lora": ("mtl_lora", {"n_up_projection": 2, "task_specific_matrix_type": "linear"}),
    "dora": ("dora", {"scaled_norm": False, "scaled_bias": True}),
    "vera": ("vera", {"r": 4, "square": True, "use_rslora": True}),
    "dvora": ("dvora", {"square": True, "scaled_norm": False, "scaled_bias": True, "leave_out": [0]}),
    "noreft": ("noreft", {"r": 3, "suffix_positions": 1, "non_linearity": "prelu"}),
    "prompt": ("prompt_tuning", {"adapterhub_mask": True}),
    "prefix": ("prefix_tuning", {"prefix_length": 3, "bottleneck_size": 4, "use_gating": True}),
    "flat": ("prefix_tuning_flat", {"prefix_length": 3}),
    "last map": ("lora", {"selfattn_lora": False, "output_lora": True, "use_gating": True, "leave_out": [0]}),
}


def made(architecture: str, preset: str = "seq_bn", **options: Any) -> Model:
    """A model with a random adapter `a`."""
    model = tiny.model(architecture)
    tiny.randomize(model.add_adapter("a", preset, **options))
    return model


def states(model: Model, expression: Expression) -> torch.Tensor:
    with torch.no_grad():
        return model.plan(expression).states(**tiny.inputs(model.spec.architecture)).last_hidden_state


def test_every_method_that_is_read_is_written() -> None:
    assert set(WRITERS) == (set(GRAMMARS) - {"adapter_fusion"}) | {"prefix_tuning"}
    assert all(keys.model_class.endswith("AdapterModel") for keys in KEYS.values())


NOT_THERE = {
    "prompt": ("gpt2", "llama", "t5"),
    **dict.fromkeys(("inv", "glow", "compacter own"), ("vit",)),
    **dict.fromkeys(("dora", "mtl_lora"), ("gpt2",)),
    **dict.fromkeys(("vera", "dvora"), ("gpt2", "llama")),
}
"""Where AdapterHub has no such adapter: prompts are of encoders alone, images have no invertible part, a fused map has
only LoRA and IA3, and VeRA's maps are of one width."""


@pytest.mark.parametrize(
    ("architecture", "case"),
    [(name, case) for case in ADAPTERS for name in tiny.CONFIGS if name not in NOT_THERE.get(case, ())],
)
def test_adapters_come_back(tmp_path: Path, architecture: str, case: str) -> None:
    preset, options = ADAPTERS[case]
    model = made(architecture, preset, **options)
    model.save_adapter("a", tmp_path, format="adapterhub")
    assert {path.name for path in tmp_path.iterdir()} == {"adapter_config.json", "adapter.safetensors"}
    assert model.load_adapter(tmp_path, "b", **UNSAID.get(case, {})) == "b"
    assert same(model.adapters["a"].tensors(), model.adapters["b"].tensors())
    assert states(model, "a").equal(states(model, "b"))


@pytest.mark.parametrize("architecture", tiny.CONFIGS)
@pytest.mark.parametrize("options", [{"r": 3, "suffix_positions": 1}, {"r": 32, "tied_weights": True}])
def test_orthogonal_projections_come_back(tmp_path: Path, architecture: str, options: dict[str, Any]) -> None:
    """A weight whose rows are not orthonormal is written as the projection that is made of it."""
    model = made(architecture, "loreft", **options)
    model.save_adapter("a", tmp_path, format="adapterhub")
    model.load_adapter(tmp_path, "b")
    torch.testing.assert_close(states(model, "a"), states(model, "b"), rtol=0, atol=1e-9)


GOLDEN = [(architecture, case) for architecture, case in CASES if covered(architecture, case)]


@pytest.mark.parametrize(("architecture", "case"), GOLDEN)
def test_files_are_written_as_adapterhub_wrote_them(architecture: str, case: str) -> None:
    """Read and written again: the same keys, the same tensors, and no option that says something else.

    Prefixes are written once, not again under every attention; an orthogonal projection, of many pairs that make it,
    by another.
    """
    folder = ROOT / architecture / case
    spec = golden_model(architecture).spec
    modules = BackboneModules(spec)
    for place in sorted((folder / "adapters").iterdir()):
        unsaid = UNSAID.get(case.partition("-")[2], {})
        compare(place, "adapter", dict(adapter_files(read_adapter(place, spec, with_head=False, **unsaid), modules)))
    for place in sorted((folder / "fusions").glob("*")):
        compare(place, "adapter_fusion", dict(fusion_files(read_fusion(place, spec), modules)))
    for place in sorted((folder / "heads").glob("*")):
        compare(place, "head", dict(head_files(read_head(place, spec), modules)))


MODELS: dict[str, Model] = {}


def golden_model(architecture: str) -> Model:
    if architecture not in MODELS:
        config = AutoConfig.from_pretrained(ROOT / architecture / "backbone")
        MODELS[architecture] = compose.attach(AutoModel.from_config(config))
    return MODELS[architecture]


def compare(place: Path, kind: str, files: dict[str, bytes]) -> None:
    """Holds files that we would write against a folder of AdapterHub's."""
    theirs = json.loads((place / f"{kind}_config.json").read_text())
    ours = json.loads(files[f"{kind}_config.json"])
    assert {key: ours[key] for key in theirs if key not in ("config", "model_name")} == {
        key: value for key, value in theirs.items() if key not in ("config", "model_name")
    }
    members = ours["config"].get("configs", [ours["config"]]), theirs["config"].get("configs", [theirs["config"]])
    for mine, its in zip(*members, strict=True):
        common = mine.keys() & its.keys()
        assert common and {key: mine[key] for key in common} == {key: its[key] for key in common}
    name, data = next((name, data) for name, data in files.items() if name.endswith(".safetensors"))
    if (place / name).exists():
        expected = load_file(place / name)
    else:
        expected = torch.load(next(place.glob("pytorch_*.bin")), weights_only=True)
    found = load(data)
    assert found.keys() == {key for key in expected if ".pool." not in key}
    for key, tensor in found.items():
        if key.endswith(".parametrizations.weight.original"):
            base = key.replace("original", "0.base")
            made = (orthogonal(source[key], source[base]) for source in (found, expected))
            torch.testing.assert_close(*made, rtol=0, atol=1e-5)
        elif not key.endswith(".parametrizations.weight.0.base"):
            assert tensor.equal(expected[key])


def orthogonal(original: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    """What torch makes of the two tensors of an orthogonal projection."""
    module = torch.nn.utils.parametrizations.orthogonal(torch.nn.Linear(*original.shape[::-1], bias=False))
    module.load_state_dict({"parametrizations.weight.original": original, "parametrizations.weight.0.base": base})
    weight: torch.Tensor = module.weight.detach()
    return weight


HEADS: dict[str, tuple[str, dict[str, Any]]] = {
    "classification": ("classification", {"labels": ["no", "yes"], "layers": 2, "activation": "relu"}),
    "regression": ("regression", {}),
    "multi_label": ("multi_label", {"labels": 3, "bias": False, "dropout": 0.2}),
    "tagging": ("tagging", {"labels": ["O", "B", "I"], "layers": 2, "activation": None}),
    "question_answering": ("question_answering", {"layers": 2, "dropout": 0.2}),
    "causal_lm": ("causal_lm", {"layers": 2, "bias": True}),
    "one layer": ("causal_lm", {"layer_norm": False}),
}


@pytest.mark.parametrize("case", HEADS)
@pytest.mark.parametrize("architecture", ["bert", "gpt2", "vit"])
def test_heads_come_back(tmp_path: Path, architecture: str, case: str) -> None:
    kind, options = HEADS[case]
    if architecture == "gpt2" and kind not in ("tagging", "question_answering", "causal_lm"):
        options = {**options, "pooling": "adapterhub"}
    if architecture == "vit" and kind == "causal_lm":
        pytest.skip("no vocabulary")
    model = made(architecture)
    head = model.add_head("a", kind, **options)
    vocabulary = head.tensors()["out.weight"].clone()
    tiny.randomize(head)
    if kind == "causal_lm":
        head.tensors()["out.weight"].copy_(vocabulary)
    model.save_head("a", tmp_path / "head", format="adapterhub")
    model.save_adapter("a", tmp_path / "both", with_head=True, format="adapterhub")
    for folder in (tmp_path / "head", tmp_path / "both"):
        name = model.load_head(folder, folder.name)
        assert same(model.heads["a"].tensors(), model.heads[name].tensors())
        written = {**model.heads["a"].config.to_dict(), **model.heads[name].config.to_dict()}
        assert {**written, **options}.keys() == written.keys()
    other = tiny.model(architecture)
    assert other.load_adapter(tmp_path / "both", with_head=True) in other.heads


def test_a_question_answering_head_that_cannot_be_said(tmp_path: Path) -> None:
    model = made("bert")
    model.add_head("a", "question_answering", unanswerable=True, max_answer_length=9)
    with pytest.raises(FileError, match=r"(?s)cannot say max_answer_length=9.*cannot say unanswerable=True"):
        model.save_head("a", tmp_path, format="adapterhub")


def test_fusions_come_back(tmp_path: Path) -> None:
    model = made("bert", "double_seq_bn")
    tiny.randomize(model.add_adapter("b", "seq_bn"), 2)
    for index, fuse in enumerate((Fuse("a", "b"), Fuse("a", "b", name="f"))):
        tiny.randomize(model.add_fusion(fuse), index)
        model.save_fusion(fuse, tmp_path / str(index), format="adapterhub")
        name = model.load_fusion(tmp_path / str(index), f"g{index}")
        assert same(model.fusions[name].tensors(), model.fusions[("a,b", "f")[index]].tensors())
        assert model.fusions[name].candidates == ("a", "b")


def test_the_temperature_of_a_fusion(tmp_path: Path) -> None:
    """At 1 it is none; on its way there AdapterHub's files cannot say where it is."""
    model = made("bert")
    model.add_adapter("b", "seq_bn")
    fusion = model.add_fusion("Fuse('a', 'b')", temperature=True)
    with pytest.raises(FileError, match="how far its temperature has fallen"):
        model.save_fusion("a,b", tmp_path, format="adapterhub")
    for name, tensor in fusion.tensors().items():
        if name.endswith("temperature"):
            tensor.fill_(1.0)
    model.save_fusion("a,b", tmp_path, format="adapterhub")
    model.load_fusion(tmp_path, "g")
    assert not model.fusions["g"].config.temperature
    assert states(model, Fuse("a", "b")).equal(states(model, Fuse("a", "b", name="g")))


def test_compositions_come_back(tmp_path: Path) -> None:
    model = made("bert")
    for index, name in enumerate(("b", "c")):
        tiny.randomize(model.add_adapter(name, "seq_bn"), index)
        tiny.randomize(model.add_head(name, labels=index + 2), index)
    tiny.randomize(model.add_fusion(Fuse("a", "b")))
    expressions: list[Expression] = [
        "a",
        Stack("c", Fuse("a", "b")),
        Parallel("b", Stack("a", "c")),
        Split("a", "b", sizes=[3, 4]),
        Average("a", "b", weights=[0.25, 0.75]),
    ]
    for index, expression in enumerate(expressions):
        folder = tmp_path / str(index)
        model.plan(expression).save(folder, format="adapterhub")
        other = compose.attach(tiny.backbone("bert"))
        plan = compose.load_plan(folder, other)
        assert plan.expression == (Stack("a") if expression == "a" else expression)
        assert states(other, plan.expression).equal(states(model, expression))
        assert set(other.heads) == {"b", "c"} & set(
            json.loads((folder / "adapter_setup.json").read_text())["head_setup"] or ()
        )
    with pytest.raises(FileError, match="model="):
        compose.load_plan(tmp_path / "1")


@pytest.mark.parametrize("name", ["../x", "..", "/etc", ""])
def test_setups_that_point_outside(tmp_path: Path, name: str) -> None:
    model = made("bert")
    model.plan(Stack("a")).save(tmp_path / "plan", format="adapterhub")
    model.add_head("a")
    model.save_head("a", tmp_path / "x", format="adapterhub")
    path = tmp_path / "plan" / "adapter_setup.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "head_setup": [name]}))
    with pytest.raises(FileError, match=r"not a legal|not the name"):
        compose.load_plan(tmp_path / "plan", tiny.model("bert"))


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        (Drop("a", first=1), "it has no Drop"),
        (Route(a="a", b="b"), "it has no Route"),
        (Parallel(x="a", y="b"), "no names of tasks"),
        (Fuse("a", "b", name="f"), "no name of a Fuse"),
        (Fuse("a", None), "no None"),
        (Split("a", "b", sizes=[None, 2]), "no size that is the rest"),
        (Average("a", "b", weights=[1, 2], normalize=False), "whether weights are normalised"),
        (Parallel("a", Stack("a", Fuse("a", "b"))), "at the top and right below"),
    ],
)
def test_what_a_setup_cannot_say(tmp_path: Path, expression: Expression, message: str) -> None:
    model = made("bert")
    model.add_adapter("b", "seq_bn")
    for fuse in (Fuse("a", "b"), Fuse("a", "b", name="f"), Fuse("a", None)):
        model.add_fusion(fuse)
    with pytest.raises(FileError, match=message):
        model.plan(expression).save(tmp_path, format="adapterhub")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("architecture", "preset", "options", "message"),
    [
        ("bert", "seq_bn", {"residual": False}, "cannot say residual=False"),
        ("bert", "lora", {"attn_matrices": ["q", "o"]}, r"attn_matrices=\['q', 'o'\]"),
        ("t5", "lora", {"crossattn_lora": False}, "crossattn_lora=False"),
        ("bert", "layer_aggregation", {}, "no 'layer_aggregation'"),
        ("bert", "bitfit", {}, "no 'bitfit'"),
        ("bert", "seq_bn", {"bottleneck_sizes": {"0.ffn": 3}}, "cannot say bottleneck_sizes="),
        ("bert", "dora", {"alpha": 4}, "cannot say scaled_norm=True"),
        ("bert", "dora", {}, "cannot say scaled_bias=False"),
        ("bert", "vera", {}, "cannot say square=False"),
        ("gpt2", "dora", {"scaled_bias": True}, "cannot compute dora on a fused map"),
        ("gpt2", "mtl_lora", {}, "cannot compute mtl_lora on a fused map"),
        ("llama", "vera", {"square": True}, "cannot compute VeRA on maps of different widths"),
        ("vit", "seq_bn_inv", {}, "no 'adapters', 'invertible_adapters' at 'embed'"),
        ("bert", "direft", {}, "cannot say subtract_projection=False"),
        ("bert", "prompt_tuning", {}, "cannot say adapterhub_mask=False"),
        ("bert", "prompt_tuning", {"adapterhub_mask": True, "random_uniform_scale": 0.1}, "random_uniform_scale=0.1"),
        ("t5", "prompt_tuning", {}, "no 'prompt_tunings' at 'embed'"),
    ],
)
def test_what_an_adapter_cannot_say(
    tmp_path: Path, architecture: str, preset: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(FileError, match=message):
        made(architecture, preset, **options).save_adapter("a", tmp_path, format="adapterhub")
    assert not list(tmp_path.iterdir())


def test_options_that_say_the_same() -> None:
    """What is ours alone is written where the rest says it: a scaling as alpha, DoRA's norm at a scale of 1."""
    model = made("llama", "dora", r=4, alpha=4)
    model.add_adapter("b", "rslora", r=4, alpha=6)
    modules = BackboneModules(model.spec)
    found = []
    for name in "ab":
        record = AdapterRecord(name, model.adapters[name].config, model.adapters[name].tensors())
        found.append(json.loads(dict(adapter_files(record, modules))["adapter_config.json"])["config"])
    dora, lora = found
    assert dora["use_dora"] and dora["alpha"] == dora["r"] == 4
    assert lora["alpha"] == 12 and not {"use_rslora", "scaled_norm"} & (lora.keys() | dora.keys())


def test_fusions_of_other_kinds(tmp_path: Path) -> None:
    model = made("bert")
    model.add_adapter("b", "seq_bn")
    model.add_fusion(Fuse("a", "b"), "scalearn")
    with pytest.raises(FileError, match="no 'scalearn'"):
        model.save_fusion(Fuse("a", "b"), tmp_path, format="adapterhub")


def test_a_gated_feed_forward(tmp_path: Path) -> None:
    """T5 1.1 has two maps in; AdapterHub wraps the one that is not gated, as we do."""
    config = tiny.CONFIGS["t5"](2)
    config.dense_act_fn, config.is_gated_act, config.feed_forward_proj = "gelu_new", True, "gated-gelu"
    model = compose.attach(AutoModel.from_config(config))
    tiny.randomize(model.add_adapter("a", "lora", selfattn_lora=False, intermediate_lora=True))
    model.save_adapter("a", tmp_path / "a", format="adapterhub")
    keys = load_file(tmp_path / "a" / "adapter.safetensors").keys()
    assert "transformer.encoder.block.0.layer.1.DenseReluDense.wi_1.loras.a.lora_A" in keys and len(keys) == 8
    model.save_adapter("a", tmp_path / "b", format="peft")
    for folder in "ab":
        name = model.load_adapter(tmp_path / folder, f"{folder}2")
        assert same(model.adapters["a"].tensors(), model.adapters[name].tensors())


def test_cross_attention_that_is_not_there(tmp_path: Path) -> None:
    model = made("bert", "lora", crossattn_lora=False)
    model.save_adapter("a", tmp_path, format="adapterhub")
    model.load_adapter(tmp_path, "b")
    assert same(model.adapters["a"].tensors(), model.adapters["b"].tensors())


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("classification", {"pooling": "mean"}, "pooling='mean'"),
        ("regression", {"labels": 2}, "problem='regression'"),
        ("causal_lm", {"layer_norm_eps": 0.1}, "layer_norm_eps=0.1"),
    ],
)
def test_what_a_head_cannot_say(tmp_path: Path, kind: str, options: dict[str, Any], message: str) -> None:
    model = made("gpt2")
    model.add_head("a", kind, **options)
    with pytest.raises(FileError, match=message):
        model.save_head("a", tmp_path, format="adapterhub")


def test_a_vocabulary_of_its_own(tmp_path: Path) -> None:
    """AdapterHub ties such a head to the embeddings, which loading it would overwrite."""
    for architecture, tied in (("gpt2", True), ("llama", False)):
        model = made(architecture)
        tiny.randomize(model.add_head("a", "causal_lm", layers=2))
        if tied:
            with pytest.raises(FileError, match="would overwrite the embeddings"):
                model.save_head("a", tmp_path / architecture, format="adapterhub")
        else:
            model.save_head("a", tmp_path / architecture, format="adapterhub")


def test_fusions_of_adapters_at_different_places(tmp_path: Path) -> None:
    model = made("bert")
    model.add_adapter("b", "double_seq_bn")
    model.add_fusion(Fuse("a", "b"))
    with pytest.raises(FileError, match="differ in mh_adapter"):
        model.plan(Fuse("a", "b")).save(tmp_path, format="adapterhub")


def test_names_with_a_dot(tmp_path: Path) -> None:
    model = made("bert")
    model.add_adapter("v1.0", "seq_bn")
    with pytest.raises(FileError, match="cannot hold the name"):
        model.save_adapter("v1.0", tmp_path, format="adapterhub")


def test_folders_that_hold_something_else(tmp_path: Path) -> None:
    """One folder, one format: their files are called alike. A torch file that is older goes."""
    model = made("bert", "lora")
    model.save_adapter("a", tmp_path / "native")
    for form in ("adapterhub", "peft"):
        with pytest.raises(FileError, match="in the native format"):
            model.save_adapter("a", tmp_path / "native", format=form)
    model.save_adapter("a", tmp_path / "hub", format="adapterhub")
    with pytest.raises(FileError, match="in the adapterhub format"):
        model.save_adapter("a", tmp_path / "hub", format="peft")
    (tmp_path / "hub" / "pytorch_adapter.bin").touch()
    model.save_adapter("a", tmp_path / "hub", format="adapterhub")
    assert not (tmp_path / "hub" / "pytorch_adapter.bin").exists()
    with pytest.raises(FileError, match="no format 'onnx'") as caught:
        model.save_adapter("a", tmp_path / "new", format="onnx")
    assert caught.value.problems[0].legal == ("native", "adapterhub", "peft")
    with pytest.raises(FileError, match="no option 'task_type'"):
        model.save_adapter("a", tmp_path / "new", format="native", task_type="SEQ_CLS")


def test_a_save_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old version stays, and nothing half-written."""
    model = made("bert")
    model.save_adapter("a", tmp_path / "a", format="adapterhub")
    before = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    tiny.randomize(model.adapters["a"], 7)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        with pytest.raises(FileError, match="No space left"):
            model.save_adapter("a", tmp_path / "a", format="adapterhub")
    assert {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()} == before
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="cannot be saved"):
        model.save_adapter("a", tmp_path / "file" / "x", format="adapterhub")
