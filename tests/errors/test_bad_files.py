"""Files that are damaged, foreign or for another backbone: refused whole, and the model is as it was."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel

import compose
from compose.errors import BackboneError, CompileError, ComposeError, ConfigError, FileError, InputError, RegistryError
from compose.runtime.model import Model
from tests import tiny
from tests.errors.world import LABELS, PLAN, Mistake, batch, build, check, snapshot
from tests.heads import texts
from tests.io import folders


@pytest.fixture(scope="module")
def model() -> Model:
    return build()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter with its head, a fusion, a head and a plan of the same backbone."""
    folder, donor = tmp_path_factory.mktemp("saved"), build()
    donor.save_adapter("nli", folder / "adapter", with_head=True)
    donor.save_fusion("nli,qqp", folder / "fusion")
    donor.save_head("qqp", folder / "head")
    for task in ("a", "b"):
        donor.add_adapter(task)
        donor.add_head(task, labels=2)
    donor.plan("Parallel('a', 'b')").save(folder / "plan")
    return folder


def signed(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Changes the weights of a saved adapter and makes the checksum fit."""
    tensors = load_file(folder / "adapter.safetensors")
    change(tensors)
    save_file(tensors, folder / "adapter.safetensors")
    digest = hashlib.sha256((folder / "adapter.safetensors").read_bytes()).hexdigest()
    described(folder, sha256=digest)


def described(folder: Path, **content: Any) -> None:
    """Changes the manifest of a saved adapter."""
    manifest = json.loads((folder / "adapter.json").read_text())
    (folder / "adapter.json").write_text(json.dumps({**manifest, **content}))


def cut(path: Path) -> None:
    """Cuts a file in half."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    """Changes the last byte of a file by a bit."""
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def peft(folder: Path) -> None:
    """A folder as PEFT writes it."""
    for path in folder.iterdir():
        path.unlink()
    config = {"peft_type": "LORA", "r": 8, "base_model_name_or_path": "bert"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file({"base_model.model.x.lora_A.weight": torch.ones(1)}, folder / "adapter_model.safetensors")


def adapterhub(folder: Path, **content: Any) -> None:
    """A folder as AdapterHub writes it."""
    for path in folder.iterdir():
        path.unlink()
    given = {"config": folders.BOTTLENECK, "hidden_size": 16, **content}
    weights = folders.draw(folders.bottleneck_keys("bert.encoder.layer.0.output"))
    folders.write_adapterhub(folder, given.pop("config"), weights, **given)


def load_adapter(damage: Callable[[Path], object], **options: Any) -> Callable[[Model, Path], object]:
    """Damages the adapter's folder and loads it."""

    def do(model: Model, folder: Path) -> object:
        damage(folder / "adapter")
        return model.load_adapter(folder / "adapter", **{"name": "new", **options})

    return do


def clear(folder: Path) -> None:
    """Leaves nothing in a folder."""
    for path in folder.iterdir():
        path.unlink()


FILES: dict[str, Mistake] = {
    "weights cut off": Mistake(
        load_adapter(lambda f: cut(f / "adapter.safetensors")), FileError, ("adapter.safetensors", "cut off")
    ),
    "manifest cut off": Mistake(load_adapter(lambda f: cut(f / "adapter.json")), FileError, ("adapter.json", "JSON")),
    "a bit flipped": Mistake(
        load_adapter(lambda f: flip(f / "adapter.safetensors")),
        FileError,
        ("adapter.safetensors", "sha256", "the file was changed or damaged after it was saved"),
    ),
    "weights missing": Mistake(
        load_adapter(lambda f: (f / "adapter.safetensors").unlink()), FileError, ("adapter.safetensors", "no such file")
    ),
    "a Git LFS pointer": Mistake(
        load_adapter(lambda f: (f / "adapter.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")),
        FileError,
        ("Git LFS pointer",),
    ),
    "a pickle": Mistake(
        load_adapter(lambda f: (f / "adapter.safetensors").write_bytes(pickle.dumps({"a": 1}))),
        FileError,
        ("adapter.safetensors",),
    ),
    "a weight missing and one too many": Mistake(
        load_adapter(lambda f: signed(f, lambda t: t.__setitem__("0.ffn.upper.bias", t.pop("0.ffn.up.bias")))),
        FileError,
        ("the weight '0.ffn.up.bias' of shape (16,) is missing", "has no weight '0.ffn.upper.bias'"),
        nearest="0.ffn.up.bias",
        problems=2,
    ),
    "weights of another shape": Mistake(
        load_adapter(lambda f: signed(f, lambda t: t.update({"1.ffn.up.bias": torch.ones(5)}))),
        FileError,
        ("1.ffn.up.bias: shape (5,) where (16,) is needed",),
    ),
    "weights that are not finite": Mistake(
        load_adapter(lambda f: signed(f, lambda t: t["0.ffn.up.bias"].fill_(torch.nan))), FileError, ("0.ffn.up.bias",)
    ),
    "an unknown method": Mistake(
        load_adapter(lambda f: described(f, method="bottlneck")), FileError, ("'bottlneck'",), nearest="bottleneck"
    ),
    "an unknown option": Mistake(
        load_adapter(lambda f: described(f, config={"scalling": 2})), FileError, ("'scalling'",), nearest="scaling"
    ),
    "a newer format": Mistake(
        load_adapter(lambda f: described(f, version=99)), FileError, ("version 99 of the format", "a newer version of")
    ),
    "an empty folder": Mistake(load_adapter(clear), FileError, ("adapter",)),
    "no folder": Mistake(load_adapter(lambda f: shutil.rmtree(f)), FileError, ("no such folder",)),
    "a fusion for an adapter": Mistake(lambda m, f: m.load_adapter(f / "fusion"), FileError, ("fusion",)),
    "an adapter for a fusion": Mistake(lambda m, f: m.load_fusion(f / "adapter"), FileError, ("adapter",)),
    "a plan for an adapter": Mistake(lambda m, f: m.load_adapter(f / "plan"), FileError, ("composition",)),
    "a PEFT folder": Mistake(load_adapter(peft), FileError, ("'base_model.model.x.lora_A.weight' has no place",)),
    "an AdapterHub folder of another architecture": Mistake(
        load_adapter(lambda f: adapterhub(f, model_type="gpt2")),
        FileError,
        ("made for architecture 'gpt2', this backbone is 'bert'",),
    ),
    "an AdapterHub folder of another width": Mistake(
        load_adapter(lambda f: adapterhub(f, hidden_size=768)),
        FileError,
        ("made for states of width 768, this backbone's have 16",),
    ),
    "an AdapterHub folder of a method that is not read": Mistake(
        load_adapter(lambda f: adapterhub(f, config={"architecture": "suffix_tuning", "length": 30})),
        FileError,
        ("adapter_config.json", "there is no architecture 'suffix_tuning'", "'prefix_tuning'"),
    ),
    "an AdapterHub folder of too few layers": Mistake(
        load_adapter(adapterhub), FileError, ("the weight '1.ffn.down.weight'", "is missing"), problems=8
    ),
    "a name that is taken": Mistake(
        load_adapter(lambda f: None, name="nli"), RegistryError, ("the adapter 'nli' is there already",)
    ),
    "a head's name that is taken": Mistake(
        load_adapter(lambda f: None, name="qqp", with_head=True),
        RegistryError,
        ("the adapter 'qqp' is there already", "the head 'qqp' is there already"),
        problems=2,
    ),
    "a name that is not legal": Mistake(load_adapter(lambda f: None, name="../x"), FileError, ("../x",)),
    "a head that is not there": Mistake(
        load_adapter(lambda f: described(f, head=None), with_head=True),
        FileError,
        ("there is no head beside the adapter", "with_head=False"),
    ),
    "a plan with a damaged part": Mistake(
        lambda m, f: (cut(next(f.glob("plan/adapters/b*/adapter.safetensors"))), compose.load_plan(f / "plan", m)),
        FileError,
        ("adapter.safetensors", "cut off"),
    ),
    "a plan with a part missing": Mistake(
        lambda m, f: (shutil.rmtree(next(f.glob("plan/heads/b*"))), compose.load_plan(f / "plan", m)),
        FileError,
        ("plan/heads",),
    ),
    "saving an unknown adapter": Mistake(
        lambda m, f: m.save_adapter("nil", f / "new"), RegistryError, ("there is no adapter 'nil'",), nearest="nli"
    ),
    "saving an unknown fusion": Mistake(
        lambda m, f: m.save_fusion("tone", f / "new"), RegistryError, ("there is no fusion 'tone'",)
    ),
    "saving an unknown head": Mistake(
        lambda m, f: m.save_head("nil", f / "new"), RegistryError, ("there is no head 'nil'",), nearest="nli"
    ),
    "saving an adapter with a head that is not there": Mistake(
        lambda m, f: m.save_adapter("tone", f / "new", with_head=True), RegistryError, ("there is no head 'tone'",)
    ),
}


@pytest.mark.parametrize("mistake", FILES.values(), ids=FILES)
def test_mistakes(model: Model, saved: Path, mistake: Mistake, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path / "files")
    plan = model.plan(PLAN)
    before = snapshot(model, plan)
    with pytest.raises(ComposeError) as caught:
        mistake.do(model, tmp_path / "files")
    check(mistake, caught.value)
    assert snapshot(model, plan) == before
    assert not (tmp_path / "files" / "new").exists()


def bert(seed: int = 0, **options: Any) -> Model:
    """A BERT as that of the saved files, or unlike it."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = {"vocab_size": len(texts.PIECES), "max_position_embeddings": 40, **sizes, **options}
    return compose.attach(BertModel(BertConfig(**config)).eval())


OTHERS: dict[str, tuple[Callable[[], Model], str]] = {
    "other weights": (lambda: bert(5), "made for another 'bert' of the same size: the weights differ"),
    "more layers": (lambda: bert(num_hidden_layers=3), "with layers 2, this one has 3"),
    "another width": (lambda: bert(hidden_size=24), "with hidden size 16, this one has 24"),
    "another vocabulary": (lambda: bert(vocab_size=99), f"with vocabulary {len(texts.PIECES)}, this one has 99"),
    "another architecture": (lambda: tiny.model("gpt2"), "made for architecture 'bert', this backbone is 'gpt2'"),
}

LOADS: dict[str, Callable[[Model, Path], object]] = {
    "adapter": lambda m, f: m.load_adapter(f / "adapter"),
    "fusion": lambda m, f: m.load_fusion(f / "fusion"),
    "head": lambda m, f: m.load_head(f / "head"),
    "plan": lambda m, f: compose.load_plan(f / "plan", m),
}


@pytest.mark.parametrize("what", LOADS)
@pytest.mark.parametrize("other", OTHERS)
def test_another_backbone(saved: Path, other: str, what: str) -> None:
    make, said = OTHERS[other]
    model = make()
    with pytest.raises(FileError) as caught:
        LOADS[what](model, saved)
    text = str(caught.value)
    assert said in text and "allow_backbone=True" in text and str(saved) in text
    assert not model.adapters.names and not model.fusions.names and not model.heads.names


def test_another_backbone_on_purpose(saved: Path) -> None:
    model = bert(5)
    assert model.load_adapter(saved / "adapter", allow_backbone=True) == "nli"
    assert model.adapters.names == ("nli",)


def test_the_same_backbone(saved: Path) -> None:
    model = bert()
    for load in LOADS.values():
        load(model, saved)
    assert set(model.adapters) == {"nli", "a", "b"} and set(model.heads) == {"qqp", "a", "b"}


# What was there and is gone


@pytest.mark.parametrize("gradients", [False, True])
def test_a_deleted_adapter(gradients: bool) -> None:
    """A plan says that its adapter is gone, until there is one again; other plans run on."""
    model = build()
    plan, other = model.plan(PLAN), model.plan("nli")
    model.activate("qqp")
    before = snapshot(model, other)
    kept = model.adapters["qqp"].tensors()
    model.delete_adapter("qqp")
    uses: list[Callable[[], object]] = [
        lambda: plan(**batch()),
        lambda: plan.states(**batch()),
        lambda: plan.explain(),
        lambda: plan.predict(["fine"]),
        lambda: model(**batch()),
        lambda: plan.plan,
    ]
    with torch.set_grad_enabled(gradients):
        for use in uses:
            with pytest.raises(CompileError, match="there is no adapter 'qqp'") as caught:
                use()
            problem = caught.value.problems[0]
            assert problem.span and problem.text[slice(*problem.span)] == '"qqp"' and "qqp" not in problem.legal
    with torch.no_grad():
        assert other(**batch())["nli"].logits.isfinite().all()
    model.add_adapter("qqp", "double_seq_bn").load_tensors(kept)
    assert snapshot(model, other).outputs == before.outputs
    assert plan(**batch(), labels=LABELS).loss is not None


def test_a_deleted_fusion_and_head() -> None:
    model = build()
    fused = model.plan("Parallel(nli=Fuse('nli', 'qqp'))")
    fused(**batch())
    model.delete_fusion("nli,qqp")
    with pytest.raises(CompileError, match="no weights for the fusion 'nli,qqp'"):
        fused(**batch())
    plan = model.plan(PLAN)
    model.delete_head("qqp")
    with pytest.raises(RegistryError, match="there is no head 'qqp'"):
        plan(**batch())
    assert plan(**batch(), tasks=["nli"])["nli"].logits.shape == (2, 3)
    assert plan.states(**batch()).last_hidden_state.shape[0] == 4


def test_a_detached_model() -> None:
    """A plan without hooks would be the plain backbone, in silence."""
    model = build()
    plan = model.plan(PLAN)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    backbone = model.detach()
    uses: list[Callable[[], object]] = [
        lambda: plan(**batch()),
        lambda: plan.states(**batch()),
        lambda: plan.predict(["fine"]),
        lambda: model(**batch()),
        lambda: model.plan("nli")(**batch()),
    ]
    for use in uses:
        with pytest.raises(BackboneError, match="the backbone was detached") as caught:
            use()
        assert "compose.attach(backbone)" in str(caught.value)
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items() if name in state)
    again = compose.attach(backbone)
    assert torch.equal(
        again.plan(None).states(**batch()).last_hidden_state, backbone(**batch()).last_hidden_state.detach()
    )


@pytest.mark.parametrize(
    "options",
    [
        {"labels": {"nli,qqp": torch.tensor([0, 9])}},
        {"labels": {"x": torch.tensor([0, 1])}},
        {"loss_weights": {"x": 2.0}},
        {"tasks": ["x"]},
        {"route": ["x", "x"]},
        {"input_ids": torch.zeros(0, 6, dtype=torch.long)},
    ],
    ids=lambda options: next(iter(options)),
)
def test_mistakes_in_training(options: dict[str, Any]) -> None:
    """A step that fails is no step: a fusion does not cool."""
    model = build()
    model.add_head("nli,qqp", labels=2)
    model.train()
    plan = model.plan("Fuse('nli', 'qqp')")
    before = snapshot(model, model.plan(PLAN))
    with pytest.raises(InputError):
        plan(**{**batch(), **options})
    assert snapshot(model, model.plan(PLAN)) == before


def test_a_mistake_when_training_starts() -> None:
    """What is trained stays what it was."""
    model = build()
    model.train_only("nli", "heads")
    before = snapshot(model, model.plan(PLAN))
    for expression, options in (("nli", {"regime": "x"}), ("x", {}), (None, {}), ("nli", {"regime": "fusion"})):
        with pytest.raises((ConfigError, CompileError)):
            model.train_only(expression, **options)
    assert snapshot(model, model.plan(PLAN)) == before
