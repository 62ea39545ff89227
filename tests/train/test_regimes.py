"""Regimes set what asks for gradients, and say what and how much: counts as the papers have them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import DistilBertConfig, DistilBertModel

import compose
from compose.dsl import Average, Drop, Fuse, Parallel, Stack
from compose.errors import CompileError, ConfigError
from compose.runtime.model import Model
from compose.runtime.regimes import Trainable
from tests import tiny

ADAPTERS = 599_424
"""12 bottlenecks, 768 to 32 and back, with biases."""
OUTPUT_LAYERS = 592_130
"""768 to 768, and 768 to 2, with biases."""
WITHOUT_ADAPTERS = 66_955_010
WITH_ADAPTERS = 67_554_434


def asked(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


# DistilBERT at its full size, without memory: parameters on the meta device are shapes only


@pytest.fixture(scope="module")
def distilbert() -> Model:
    with torch.device("meta"):
        backbone = DistilBertModel(DistilBertConfig())
    model = compose.attach(backbone)
    model.add_head("a", "classification", labels=2, layers=2)
    return model


def test_distilbert_without_adapters(distilbert: Model) -> None:
    trained = distilbert.train_only(Parallel(a=None), "full")
    assert trained.count == trained.total == WITHOUT_ADAPTERS == asked(distilbert)
    assert trained.parts == {"backbone": WITHOUT_ADAPTERS - OUTPUT_LAYERS, "head a": OUTPUT_LAYERS}
    trained = distilbert.train_only(Parallel(a=None), "heads")
    assert (trained.count, trained.total) == (OUTPUT_LAYERS, WITHOUT_ADAPTERS)
    assert asked(distilbert) == asked(distilbert.heads) == OUTPUT_LAYERS


def test_distilbert_with_adapters(distilbert: Model) -> None:
    distilbert.add_adapter("a", "double_seq_bn", bottleneck_size=32)
    try:
        trained = distilbert.train_only("a")
        assert trained.parts == {"adapter a": ADAPTERS, "head a": OUTPUT_LAYERS}
        assert trained.total == WITH_ADAPTERS == WITHOUT_ADAPTERS + ADAPTERS
        assert asked(distilbert.adapters) == ADAPTERS and asked(distilbert.backbone) == 0
        assert distilbert.train_only("a", "full+adapters").count == WITH_ADAPTERS == asked(distilbert)
        assert distilbert.train_only("a", "full").count == WITHOUT_ADAPTERS  # its adapters stay as they are
        acting = distilbert.adapters["a"].spec.parts
        assert sum(part.parameters for part in acting) == ADAPTERS
        assert sorted({(part.layer, part.site) for part in acting}) == [
            (layer, site) for layer in range(6) for site in ("attn", "ffn")
        ]
        rows = {(row.what, row.name): row for row in distilbert.summary().rows}
        assert rows["adapter", "a"].parameters == ADAPTERS and rows["head", "a"].parameters == OUTPUT_LAYERS
        assert rows["backbone", "distilbert"].parameters == WITHOUT_ADAPTERS - OUTPUT_LAYERS
    finally:
        distilbert.delete_adapter("a")


def test_distilbert_layers_and_norms(distilbert: Model) -> None:
    layer = sum(p.numel() for p in distilbert.backbone.transformer.layer[5].parameters())
    trained = distilbert.train_only(Parallel(a=None), "last_layers", last=2)
    assert trained.parts == {"layer 4": layer, "layer 5": layer, "head a": OUTPUT_LAYERS}
    trained = distilbert.train_only(Parallel(a=None), "heads", train_layer_norms=True)
    assert trained.parts == {"head a": OUTPUT_LAYERS, "layer norms": 13 * 2 * 768}  # two a layer, and the embeddings'


# what is trained, on tiny backbones


@pytest.fixture
def model() -> Model:
    model = tiny.model("bert", 3, torch.float32)
    for name in ("a", "b", "c"):
        model.add_adapter(name)
    model.add_fusion(Fuse("a", "b"))
    for name in ("b", "a,b", "other"):
        model.add_head(name, labels=2)
    return model


def trained_names(model: Model) -> set[str]:
    """What has weights that ask for gradients."""
    groups = (("adapter", model.adapters), ("fusion", model.fusions), ("head", model.heads))
    found = {f"{kind} {name}" for kind, modules in groups for name, module in modules.items() if asked(module)}
    found |= {f"layer {index}" for index, layer in enumerate(model.backbone.encoder.layer) if asked(layer)}
    return found | ({"embeddings"} if asked(model.backbone.embeddings) else set())


def test_adapters(model: Model) -> None:
    assert model.train_only(Stack("a", "b")).parts.keys() == {"adapter a", "adapter b", "head b"}
    assert trained_names(model) == {"adapter a", "adapter b", "head b"}


def test_fusion(model: Model) -> None:
    fuse = Fuse("a", "b")
    assert model.train_only(fuse, "fusion").parts.keys() == {"fusion a,b", "head a,b"}
    assert trained_names(model) == {"fusion a,b", "head a,b"}
    assert model.train_only(fuse, "adapters").parts.keys() == {"adapter a", "adapter b", "head a,b"}


def test_heads(model: Model) -> None:
    expression = Parallel("b", Fuse("a", "b"), other=Drop("c", first=1))
    assert model.train_only(expression, "heads").parts.keys() == {"head b", "head a,b", "head other"}
    assert trained_names(model) == {"head b", "head a,b", "head other"}


def test_an_expression_without_heads(model: Model) -> None:
    assert model.train_only("c").parts.keys() == {"adapter c"}
    before = trained_names(model)
    for expression, why in {
        "c": "there is no head 'c'",
        Parallel("c", more="a"): "there are no heads 'c', 'more'",
        Average("a", "b"): "no output of the expression has a name",
        None: "no output of the expression has a name",
    }.items():
        with pytest.raises(ConfigError, match=f"would train nothing\n  why: {why}"):
            model.train_only(expression, "heads")
    assert trained_names(model) == before == {"adapter c"}


def test_last_layers(model: Model) -> None:
    trained = model.train_only("b", "last_layers")
    assert trained.parts.keys() == {"layer 2", "head b"}
    assert trained_names(model) == {"layer 2", "head b"}
    assert model.train_only("b", "last_layers", last=3).parts.keys() == {"layer 0", "layer 1", "layer 2", "head b"}


def test_last_layers_of_an_encoder_decoder() -> None:
    """Numbered through encoder, then decoder."""
    model = tiny.model("t5", 2, torch.float32)
    model.train_only(None, "last_layers", last=3)
    asking = {name.split(".layer.")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert asking == {"backbone.encoder.block.1", "backbone.decoder.block.0", "backbone.decoder.block.1"}


@pytest.mark.parametrize("architecture", tuple(tiny.CONFIGS))
def test_layer_norms(architecture: str) -> None:
    model = tiny.model(architecture, 2, torch.float32)
    model.add_adapter("a", "double_seq_bn", ln_before=True)
    trained = model.train_only("a", train_layer_norms=True)
    norms = [m for m in model.backbone.modules() if type(m).__name__.endswith(("LayerNorm", "RMSNorm"))]
    assert norms and trained.parts["layer norms"] == sum(p.numel() for norm in norms for p in norm.parameters())
    assert asked(model.backbone) == trained.parts["layer norms"]


def test_each_regime_replaces_the_last(model: Model) -> None:
    model.train_only("b", "full+adapters", train_layer_norms=True)
    assert trained_names(model) >= {"adapter b", "head b", "layer 0", "embeddings"}
    assert model.train_only("a").count == asked(model) == asked(model.adapters["a"])


def test_layer_norms_of_a_trained_backbone_count_once(model: Model) -> None:
    trained = model.train_only("b", "full", train_layer_norms=True)
    assert trained.count == asked(model) and "layer norms" not in trained.parts


def test_what_it_says(model: Model) -> None:
    trained = model.train_only(Stack("a", "b"))
    lines = str(trained).splitlines()
    adapter, head = asked(model.adapters["a"]), asked(model.heads["b"])
    total = sum(p.numel() for p in model.parameters())
    assert lines[0] == (
        f"adapters: {2 * adapter + head:,} of {total:,} parameters are trained ({100 * trained.count / total:.2f}%)"
    )
    assert [line.split()[:2] for line in lines[1:]] == [["adapter", "a"], ["adapter", "b"], ["head", "b"]]
    assert [int(line.split()[2].replace(",", "")) for line in lines[1:]] == [adapter, adapter, head]
    assert isinstance(trained, Trainable) and trained.count == asked(model)
    summary = str(model.summary())
    assert all(name in summary for name in ("a", "b", "c", "a,b", "other", "bottleneck", "fusion", "classification"))


# mistakes change nothing


def test_errors(model: Model) -> None:
    model.train_only("c")
    before = trained_names(model)
    with pytest.raises(ConfigError, match="no regime 'adapter'") as caught:
        model.train_only("a", "adapter")  # type: ignore[arg-type]
    assert "'adapters', " in str(caught.value)
    with pytest.raises(ConfigError, match="no Fuse"):
        model.train_only(Average("a", "b"), "fusion")
    with pytest.raises(ConfigError, match="no adapter to train"):
        model.train_only(None)
    for last in (0, 4, -1, 1.5):
        with pytest.raises(ConfigError, match="3 layers"):
            model.train_only("a", "last_layers", last=last)  # type: ignore[arg-type]
    with pytest.raises(CompileError, match="nowhere"):
        model.train_only(Stack("a", "nowhere"))
    assert trained_names(model) == before


def test_a_backbone_in_bf16_is_not_trained() -> None:
    model = tiny.model("bert", 2, torch.bfloat16)
    model.add_adapter("a", "seq_bn")
    for options in (
        {"regime": "full"},
        {"regime": "last_layers"},
        {"regime": "full+adapters"},
        {"train_layer_norms": True},
    ):
        with pytest.raises(ConfigError, match="trains weights of the backbone, which bf16 is too coarse for"):
            model.train_only("a", **options)
    assert asked(model.backbone) == 0
    assert model.train_only("a").count == asked(model.adapters)
