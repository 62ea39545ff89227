"""XLM-R is RoBERTa under another name: the same weights, the same adapters, the same states."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import XLMRobertaConfig, XLMRobertaModel

from compose import attach
from tests import tiny


def test_it_computes_what_roberta_does(tmp_path: Path) -> None:
    roberta = tiny.model("roberta", 2)
    expression = 'Parallel(Fuse("a", "lora"), Drop("a", first=1))'
    tiny.randomize(roberta.add_adapter("a", "seq_bn"), 1)
    tiny.randomize(roberta.add_adapter("lora", "lora"), 2)
    roberta.add_fusion('Fuse("a", "lora")')
    config = {key: value for key, value in roberta.backbone.config.to_dict().items() if key != "model_type"}
    backbone = XLMRobertaModel(XLMRobertaConfig(**config)).to(torch.float64).eval()
    backbone.load_state_dict(roberta.backbone.state_dict())
    other = attach(backbone)
    other.add_adapter("a", "seq_bn")
    other.add_adapter("lora", "lora")
    other.add_fusion('Fuse("a", "lora")')
    other.load_state_dict(roberta.state_dict())
    inputs = tiny.inputs("roberta", padded=True)
    with torch.no_grad():
        states = [model.plan(expression).states(**inputs).last_hidden_state for model in (roberta, other)]
    assert torch.equal(*states)
    other.save_adapter("a", tmp_path / "a", format="adapterhub")
    again = attach(backbone)
    again.load_adapter(tmp_path / "a", "a")
    own = other.adapters["a"].state_dict()
    assert all(torch.equal(value, own[key]) for key, value in again.adapters["a"].state_dict().items()) and own
