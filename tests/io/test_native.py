"""The native format: what is saved comes back bit for bit, under any name, and only onto its backbone."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compose.dsl import parse
from compose.errors import FileError
from compose.heads.spec import CustomConfig, make_head_config
from compose.io import (
    AdapterRecord,
    CompositionRecord,
    Fingerprint,
    HeadRecord,
    detect,
    load_adapter,
    load_composition,
    load_fusion,
    load_head,
    read_adapter,
    read_composition,
    read_fusion,
    read_head,
    save_adapter,
    save_composition,
    save_fusion,
    save_head,
)
from compose.io.composition import folder_names
from compose.methods.presets import PRESETS
from compose.methods.registry import make_config
from tests.io.folders import adapter, backbone, draw, fingerprint, fusion, head, same, weights


def test_an_adapter(tmp_path: Path) -> None:
    record = adapter(head=head(), meta={"note": "ü"}, fingerprint=fingerprint(), expression='Stack("en", "nli")')
    save_adapter(record, tmp_path)
    found = load_adapter(tmp_path)
    assert (found.name, found.config, found.meta) == ("nli", record.config, record.meta)
    assert (found.fingerprint, found.expression) == (record.fingerprint, record.expression)
    assert same(found.tensors, record.tensors)
    assert found.head and record.head and same(found.head.tensors, record.head.tensors)
    assert found.head.config == record.head.config
    assert load_adapter(tmp_path, with_head=False).head is None
    manifest = json.loads((tmp_path / "adapter.json").read_text())
    assert {"method", "config", "expression", "head", "fingerprint", "version", "sha256"} <= manifest.keys()


def test_renaming(tmp_path: Path) -> None:
    save_adapter(adapter(head=head()), tmp_path)
    found = load_adapter(tmp_path, "other")
    assert found.name == "other" and found.head and found.head.name == "other"
    save_adapter(adapter(head=head("own")), tmp_path)
    found = load_adapter(tmp_path, "other")
    assert found.head and found.head.name == "own"


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_every_preset_comes_back(tmp_path: Path, preset: str) -> None:
    overrides: dict[str, Any] = {
        "lora": {"leave_out": (1,), "r": 3},
        "layer_aggregation": {"leave_out": (1,)},
        "prefix_tuning": {"leave_out": (1,), "prefix_length": 3},
        "bitfit": {"leave_out": (1,), "selfattn": ("q", "norm")},
        "compacter": {"phm_dim": 2, "bottleneck_sizes": {"0.ffn": 4}},
        "reft": {"layers": (1,), "non_linearity": "relu"},
        "prompt_tuning": {"prompt_length": 3, "combine": "prefix_after_bos"},
        "union": {"configs": ["ia3", {"method": "lora", "r": 3}]},
        "bottleneck": {"reduction_factor": {"0": 2, "default": 4}},
    }.get(PRESETS[preset].method, {"leave_out": (1,)})
    record = AdapterRecord("a", make_config(preset, **overrides), draw({"0.ffn.x": (2,)}))
    save_adapter(record, tmp_path)
    assert load_adapter(tmp_path).config == record.config


@pytest.mark.parametrize(
    "kind", ["classification", "multi_label", "regression", "tagging", "question_answering", "causal_lm"]
)
def test_every_head_comes_back(tmp_path: Path, kind: str) -> None:
    record = HeadRecord("a,b", make_head_config(kind, layers=2), draw({"out.weight": (2, 8)}), fingerprint())
    save_head(record, tmp_path)
    found = load_head(tmp_path)
    assert (found.name, found.config, found.fingerprint) == ("a,b", record.config, record.fingerprint)
    assert load_head(tmp_path, "new").name == "new"


def test_a_custom_head(tmp_path: Path) -> None:
    save_head(HeadRecord("a", CustomConfig("Mine"), draw({"module.weight": (2, 8)})), tmp_path)
    assert load_head(tmp_path).config == CustomConfig("Mine")


def test_a_fusion(tmp_path: Path) -> None:
    record = fusion()
    save_fusion(record, tmp_path)
    found = load_fusion(tmp_path)
    assert (found.name, found.children, found.config) == ("nli,qqp", ("nli", "qqp"), record.config)
    assert same(found.tensors, record.tensors)
    assert load_fusion(tmp_path, "other").name == "other"


def test_one_object_per_file(tmp_path: Path) -> None:
    """Names that begin alike share nothing."""
    for index, name in enumerate(["a,b", "a,b,c"]):
        save_fusion(fusion(name, index), tmp_path / name)
    for index, name in enumerate(["sst", "sst2"]):
        save_head(head(name, index), tmp_path / name)
    assert same(load_fusion(tmp_path / "a,b").tensors, fusion(seed=0).tensors)
    assert same(load_fusion(tmp_path / "a,b,c").tensors, fusion(seed=1).tensors)
    assert same(load_head(tmp_path / "sst").tensors, head(seed=0).tensors)


@settings(max_examples=100)
@given(
    dtype=st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16]),
    shape=st.lists(st.integers(0, 5), max_size=4),
    seed=st.integers(0, 99),
)
def test_round_trip_is_exact(
    tmp_path_factory: pytest.TempPathFactory, dtype: torch.dtype, shape: list[int], seed: int
) -> None:
    folder = tmp_path_factory.mktemp("round")
    generator = torch.Generator().manual_seed(seed)
    tensor = torch.randn([*shape, 3], generator=generator).to(dtype)
    record = AdapterRecord("a", make_config("lora"), {"0.attn.q.a": tensor.transpose(-1, 0), "0.attn.q.b": tensor})
    save_adapter(record, folder)
    assert same(load_adapter(folder).tensors, record.tensors)


def test_shared_memory_is_stored(tmp_path: Path) -> None:
    tensor = torch.arange(12.0).reshape(3, 4)
    record = AdapterRecord(
        "a", make_config("lora"), {"0.attn.q.a": tensor, "0.attn.v.a": tensor, "1.attn.q.a": tensor[1:]}
    )
    save_adapter(record, tmp_path)
    assert same(load_adapter(tmp_path).tensors, record.tensors)


EXPRESSION = """Parallel(Drop(Fuse("nli", Stack("en", "qqp"), name="my.sst"), first=1), {"sst-2": "nli"})"""


def composition() -> CompositionRecord:
    names = ("nli", "qqp", "en", "Nli")
    return CompositionRecord(
        parse(EXPRESSION),
        {name: adapter(name, seed) for seed, name in enumerate(names)},
        {"my.sst": fusion("my.sst")},
        {name: head(name, seed) for seed, name in enumerate(("nli,qqp", "sst-2"))},
        backbone="minilm",
        meta={"seed": 3},
    )


def test_a_composition(tmp_path: Path) -> None:
    record = composition()
    save_composition(record, tmp_path)
    found = load_composition(tmp_path)
    assert found.expression == record.expression
    assert (found.backbone, found.meta) == ("minilm", {"seed": 3})
    assert found.adapters.keys() == record.adapters.keys()
    assert all(same(found.adapters[name].tensors, each.tensors) for name, each in record.adapters.items())
    assert same(found.fusions["my.sst"].tensors, record.fusions["my.sst"].tensors)
    assert all(same(found.heads[name].tensors, each.tensors) for name, each in record.heads.items())
    save_composition(found, tmp_path / "again")
    first = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.glob("[!a]*") if path.is_file()}
    assert first == {path: (tmp_path / "again" / path).read_bytes() for path in first}
    assert (tmp_path / "heads" / "nli+qqp" / "head.json").exists()
    assert len({path.name.lower() for path in (tmp_path / "adapters").iterdir()}) == 4


def test_a_damaged_composition_says_all(tmp_path: Path) -> None:
    save_composition(composition(), tmp_path)
    (tmp_path / "adapters" / "en" / "adapter.safetensors").unlink()
    (tmp_path / "heads" / "sst-2" / "head.json").write_text("{")
    with pytest.raises(FileError) as caught:
        load_composition(tmp_path)
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("adapters", {"nli": "../../other"}),
        ("adapters", {"nli": ".."}),
        ("adapters", {"../x": "nli"}),
        ("adapters", ["nli"]),
        ("expression", {"block": "Boom", "children": []}),
        ("backbone", 3),
    ],
)
def test_hostile_compositions(tmp_path: Path, key: str, value: object) -> None:
    save_composition(composition(), tmp_path)
    path = tmp_path / "composition.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(FileError, match=r"composition\.json"):
        load_composition(tmp_path)


def test_folder_names_are_safe() -> None:
    names = ["a,b", "A,B", "a+b", "..x", "nul", "com1.txt", "x.", "é", "a" * 64 + "," + "b" * 64]
    found = folder_names(names)
    assert len({name.lower() for name in found.values()}) == len(names)
    assert all(not name.startswith(".") and not name.endswith(".") and "/" not in name for name in found.values())


def test_detection(tmp_path: Path) -> None:
    save_adapter(adapter(head=head()), tmp_path / "a")
    assert detect(tmp_path / "a").kinds == {"adapter": "native", "head": "native"}
    with pytest.raises(FileError, match="holds no fusion") as caught:
        read_fusion(tmp_path / "a", backbone())
    assert "an adapter (native format), a head (native format)" in str(caught.value)
    (tmp_path / "b").mkdir()
    with pytest.raises(FileError, match="it is empty"):
        detect(tmp_path / "b")
    (tmp_path / "b" / "pytorch_model.bin").touch()
    (tmp_path / "b" / "config.json").touch()
    with pytest.raises(FileError, match=r"found: config\.json, pytorch_model\.bin"):
        read_adapter(tmp_path / "b", backbone())
    (tmp_path / "b" / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(FileError, match="PEFT"):
        read_adapter(tmp_path / "b", backbone())
    (tmp_path / "a" / "adapter_config.json").write_text("{}")
    with pytest.raises(FileError, match="in the native format and one in the adapterhub format"):
        read_adapter(tmp_path / "a", backbone())


def test_only_onto_its_backbone(tmp_path: Path) -> None:
    own, other = fingerprint(0), fingerprint(1)
    save_adapter(adapter(fingerprint=own), tmp_path / "adapter")
    save_head(head(), tmp_path / "adapter")
    save_fusion(fusion(), tmp_path / "fusion")
    save_composition(CompositionRecord("nli", {"nli": adapter(fingerprint=own)}), tmp_path / "plan")
    for mine in (None, own):
        assert read_adapter(tmp_path / "adapter", backbone(), fingerprint=mine).name == "nli"
        assert read_composition(tmp_path / "plan", fingerprint=mine).expression == "nli"
    unsaid = "does not say for which backbone it was made"
    for options in ({}, {"allow_backbone": True}):
        with nullcontext() if options else pytest.raises(FileError, match=unsaid):
            assert read_head(tmp_path / "adapter", backbone(), fingerprint=other, **options).name == "nli"
        with nullcontext() if options else pytest.raises(FileError, match=unsaid):
            assert read_fusion(tmp_path / "fusion", backbone(), fingerprint=other, **options).name == "nli,qqp"
    manifest = tmp_path / "adapter" / "adapter.json"
    content = json.loads(manifest.read_text())
    for edited in ({**content, "fingerprint": None}, {k: v for k, v in content.items() if k != "fingerprint"}):
        manifest.write_text(json.dumps(edited))
        with pytest.raises(FileError, match=unsaid):
            read_adapter(tmp_path / "adapter", backbone(), fingerprint=own)
    manifest.write_text(json.dumps(content))
    with pytest.raises(FileError, match="another 'bert' of the same size"):
        read_adapter(tmp_path / "adapter", backbone(), fingerprint=other)
    with pytest.raises(FileError, match="allow_backbone=True"):
        read_composition(tmp_path / "plan", fingerprint=other)
    assert read_adapter(tmp_path / "adapter", backbone(), fingerprint=other, allow_backbone=True).name == "nli"
    wide = Fingerprint.of(backbone("gpt2"), weights().items())
    with pytest.raises(FileError, match="architecture 'bert', this backbone is 'gpt2'"):
        read_adapter(tmp_path / "adapter", backbone("gpt2"), fingerprint=wide)


def test_a_fusion_from_before_there_were_kinds(tmp_path: Path) -> None:
    save_fusion(fusion(), tmp_path)
    manifest = json.loads((tmp_path / "fusion.json").read_text())
    assert manifest.pop("method") == "adapter_fusion"
    (tmp_path / "fusion.json").write_text(json.dumps(manifest))
    assert load_fusion(tmp_path).config == fusion().config
    (tmp_path / "fusion.json").write_text(json.dumps({**manifest, "method": "scalern"}))
    with pytest.raises(FileError, match="there is no kind of fusion 'scalern'"):
        load_fusion(tmp_path)
