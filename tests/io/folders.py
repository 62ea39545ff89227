"""What the tests of files share: specs of tiny backbones, records, and folders as AdapterHub writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from compose.heads.spec import make_head_config
from compose.io import AdapterRecord, Fingerprint, FusionRecord, HeadRecord
from compose.methods.fusions import make_fusion_config
from compose.methods.registry import make_config
from compose.specs import BackboneSpec, LayerSpec, SiteSpec, SubLayerSpec, linear_sites

ENCODERS = ("bert", "roberta", "xlm-roberta", "distilbert", "vit", "t5")
CAUSAL = ("gpt2", "llama")

BOTTLENECK = {"mh_adapter": False, "output_adapter": True, "reduction_factor": 4, "non_linearity": "relu"}
LORA = {"architecture": "lora", "r": 2, "alpha": 2, "attn_matrices": ["q", "v"], "composition_mode": "add"}


def backbone(architecture: str = "bert", layers: int = 2, width: int = 8) -> BackboneSpec:
    """A spec with `layers` layers in each stack."""

    def sublayer(name: str) -> SubLayerSpec:
        linears = tuple(SiteSpec(site, "linear", width, width) for site in linear_sites(name))
        return SubLayerSpec(SiteSpec(name, "sublayer", width, width), "pre", linears)

    def layer(index: int, stack: Any, names: tuple[str, ...]) -> LayerSpec:
        return LayerSpec(index, stack, tuple(sublayer(name) for name in names))

    found = [
        layer(index, "encoder" if architecture in ENCODERS else "decoder", ("attn", "ffn")) for index in range(layers)
    ]
    if architecture == "t5":
        found += [layer(layers + index, "decoder", ("attn", "cross.attn", "ffn")) for index in range(layers)]
    return BackboneSpec(architecture, width, tuple(found), vocabulary=11)


def draw(shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> dict[str, Tensor]:
    """Random tensors."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def adapter(name: str = "nli", seed: int = 0, **fields: Any) -> AdapterRecord:
    """A bottleneck adapter on the ffn of two layers of width 8."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(2):
        shapes |= {f"{layer}.ffn.down.weight": (2, 8), f"{layer}.ffn.down.bias": (2,)}
        shapes |= {f"{layer}.ffn.up.weight": (8, 2), f"{layer}.ffn.up.bias": (8,)}
    return AdapterRecord(name, make_config("seq_bn", reduction_factor=4), draw(shapes, seed), **fields)


def head(name: str = "nli", seed: int = 0) -> HeadRecord:
    """A head with three labels."""
    config = make_head_config("classification", labels=["no", "yes", "ü"])
    return HeadRecord(name, config, draw({"out.weight": (3, 8), "out.bias": (3,)}, seed))


def fusion(name: str = "nli,qqp", seed: int = 0) -> FusionRecord:
    """A fusion on the ffn of two layers."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(2):
        for matrix in ("query", "key"):
            shapes |= {f"{layer}.ffn.{matrix}.weight": (8, 8), f"{layer}.ffn.{matrix}.bias": (8,)}
        shapes[f"{layer}.ffn.value.weight"] = (8, 8)
    return FusionRecord(name, make_fusion_config(), ("nli", "qqp"), draw(shapes, seed))


def weights(seed: int = 0, width: int = 8) -> dict[str, Tensor]:
    """Parameters of a backbone, for its fingerprint."""
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (11, width),
        "embeddings.LayerNorm.weight": (width,),
        "pooler.dense.weight": (width, width),
    }
    for layer in range(2):
        shapes |= {f"encoder.layer.{layer}.{part}.weight": (width, width) for part in ("query", "key", "dense")}
        shapes[f"encoder.layer.{layer}.LayerNorm.weight"] = (width,)
    return draw(shapes, seed)


def fingerprint(seed: int = 0) -> Fingerprint:
    """The fingerprint of a random backbone."""
    return Fingerprint.of(backbone(), weights(seed).items())


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Whether two sets of tensors are equal bit for bit."""
    return a.keys() == b.keys() and all(a[name].equal(b[name]) and a[name].dtype == b[name].dtype for name in a)


def write_adapterhub(
    folder: Path,
    config: Any,
    tensors: dict[str, Tensor],
    kind: str = "adapter",
    binary: bool = False,
    **content: Any,
) -> Path:
    """A folder as AdapterHub writes it."""
    names = {
        "adapter": ("adapter_config.json", "adapter.safetensors", "pytorch_adapter.bin"),
        "fusion": (
            "adapter_fusion_config.json",
            "model_adapter_fusion.safetensors",
            "pytorch_model_adapter_fusion.bin",
        ),
        "head": ("head_config.json", "model_head.safetensors", "pytorch_model_head.bin"),
    }[kind]
    folder.mkdir(parents=True, exist_ok=True)
    common = {"hidden_size": 8, "model_type": "bert", "name": "a", "version": "adapters.1.3.0"}
    full = {key: value for key, value in {**common, **content, "config": config}.items() if value is not ...}
    (folder / names[0]).write_text(json.dumps(full))
    if binary:
        torch.save(tensors, folder / names[2])
    else:
        save_file(tensors, folder / names[1])
    return folder


def bottleneck_keys(parent: str, name: str = "a", index: int = 0) -> dict[str, tuple[int, ...]]:
    """The keys of one bottleneck adapter, and their shapes."""
    start = f"{parent}.adapters.{name}"
    return {
        f"{start}.adapter_down.{index}.weight": (2, 8),
        f"{start}.adapter_down.{index}.bias": (2,),
        f"{start}.adapter_up.weight": (8, 2),
        f"{start}.adapter_up.bias": (8,),
    }
