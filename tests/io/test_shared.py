"""AdapterHub's own files: those in `tests/golden`, and more where they lie beside the checkout."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModel

from compose.backbones.resolve import resolve
from compose.errors import FileError
from compose.heads.build import build_head
from compose.heads.head import Host
from compose.io import fusion_sites, read_adapter, read_fusion, read_head
from compose.methods.adapter import Adapter
from compose.methods.fusion.whole import Fusion
from compose.specs import BackboneSpec
from tests.io.folders import backbone

HERE = Path(__file__).resolve().parents[1] / "golden"
SHARED = Path(__file__).resolve().parents[3] / "shared"
ARTIFACT = SHARED / "artifacts" / "ah_mbert_metaphor_pfeiffer"
ROOTS = [root for root in (HERE, SHARED / "golden") if root.is_dir()]
ARCHITECTURES = ("bert", "roberta", "distilbert", "gpt2", "llama", "t5", "vit")

UNSUPPORTED = {
    "adapter": re.compile(r"NoReFT"),
    "head": re.compile(r"heads of type '(dependency_parsing)'"),
}


def unsaid(folder: Path) -> dict[str, bool]:
    """What must be said of an adapter, since its file does not: none of those here is a DiReFT."""
    config = json.loads((folder / "adapter_config.json").read_text())["config"]
    plain = config.get("architecture") == "reft" and not config["orthogonality"]
    return {"subtract_projection": True} if plain else {}


def folders(kind: str) -> list[Path]:
    return [
        folder
        for root in ROOTS
        for architecture in ARCHITECTURES
        for folder in sorted(root.glob(f"{architecture}/*/{kind}/*"))
    ]


@cache
def spec(folder: Path) -> BackboneSpec:
    config = AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        return resolve(AutoModel.from_config(config)).spec


def spec_of(folder: Path) -> BackboneSpec:
    return spec(folder.parents[2] / "backbone")


def supported(folder: Path, kind: str) -> bool:
    """By the options in the file, read here independently."""
    name = {"adapter": "adapter_config.json", "head": "head_config.json"}[kind]
    config = json.loads((folder / name).read_text())["config"]
    if kind == "head":
        return config["head_type"] in (
            "classification",
            "tagging",
            "question_answering",
            "causal_lm",
            "masked_lm",
            "image_classification",
        )
    return config.get("architecture") != "reft" or bool(config.get("orthogonality"))


@pytest.mark.parametrize("folder", folders("adapters"), ids=lambda folder: "-".join(folder.parts[-4:]))
def test_adapters(folder: Path) -> None:
    if not supported(folder, "adapter"):
        with pytest.raises(FileError, match=UNSUPPORTED["adapter"]):
            read_adapter(folder, spec_of(folder))
        return
    if unsaid(folder):
        with pytest.raises(FileError, match="NoReFT or DiReFT"):
            read_adapter(folder, spec_of(folder))
    record = read_adapter(folder, spec_of(folder), "renamed", with_head=False, **unsaid(folder))
    Adapter("renamed", record.config, spec_of(folder)).load_tensors(record.tensors)


@pytest.mark.parametrize("folder", folders("fusions"), ids=lambda folder: "-".join(folder.parts[-4:]))
def test_fusions(folder: Path) -> None:
    record = read_fusion(folder, spec_of(folder))
    assert record.name == folder.name.replace("+", ",")
    Fusion(record.name, record.config, fusion_sites(record.tensors)).load_tensors(record.tensors)


@pytest.mark.parametrize("folder", folders("heads"), ids=lambda folder: "-".join(folder.parts[-4:]))
def test_heads(folder: Path) -> None:
    if not supported(folder, "head"):
        with pytest.raises(FileError, match=UNSUPPORTED["head"]):
            read_head(folder, spec_of(folder))
        return
    record = read_head(folder, spec_of(folder), "renamed")
    build_head("renamed", record.config, Host.of(spec_of(folder))).load_tensors(record.tensors)


@pytest.mark.skipif(not ARTIFACT.is_dir(), reason="the artifact is not beside the checkout")
def test_a_trained_adapter() -> None:
    base = backbone("bert", layers=12, width=768)
    record = read_adapter(ARTIFACT, base)
    assert record.name == "md" and record.head and record.head.name == "md"
    adapter = Adapter("md", record.config, base)
    adapter.load_tensors(record.tensors)
    build_head("md", record.head.config, Host.of(base)).load_tensors(record.head.tensors)
    ours = {"adapter_down.0": "down", "adapter_up": "up"}
    rows = 0
    for name, tensors in (("adapter", record.tensors), ("model_head", record.head.tensors)):
        for line in (ARTIFACT / f"pytorch_{name}.tensors.txt").read_text().splitlines()[1:]:
            key, shape, mean, largest = line.split("\t")
            layer = re.match(r"bert\.encoder\.layer\.(\d+)\.output\.adapters\.md\.(.+)\.(\w+)", key)
            if layer:
                tensor = tensors[f"{layer[1]}.ffn.{ours[layer[2]]}.{layer[3]}"]
            else:
                tensor = tensors[key.replace("heads.md.1", "dense.0").replace("heads.md.4", "out")]
            assert list(tensor.shape) == json.loads(shape)
            assert tensor.abs().mean().item() == pytest.approx(float(mean.split("=")[1]), rel=1e-4)
            assert tensor.abs().max().item() == pytest.approx(float(largest.split("=")[1]), rel=1e-4)
            rows += 1
    assert rows == len(record.tensors) + len(record.head.tensors) == 52
