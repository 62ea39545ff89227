"""The peer's worker: AdapterHub's `adapters`, run by its own interpreter through this file's path.

It imports nothing of compose; what it shares with our worker it runs by its path.
"""

from __future__ import annotations

import importlib
import json
import runpy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers

LOOP = runpy.run_path(str(Path(__file__).with_name("loop.py")), run_name="loop")
Work = LOOP["Work"]


def _model(told: Mapping[str, Any], attention: str) -> Any:
    hub = importlib.import_module("adapters")
    if told.get("folder"):
        base = transformers.AutoModel.from_pretrained(told["folder"], attn_implementation=attention)
        model = hub.BertAdapterModel(base.config)
        model.bert.load_state_dict(base.state_dict(), strict=False)
        return model.to(told["device"]).eval()
    config = transformers.BertConfig(**{**told["config"], "attn_implementation": attention})
    return hub.BertAdapterModel(config).to(told["device"]).eval()


def _batch(told: Mapping[str, Any], model: Any) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    shape = (told["rows"], told["tokens"])
    ids = torch.randint(5, model.config.vocab_size, shape, generator=generator)
    return {"input_ids": ids.to(told["device"]), "attention_mask": torch.ones_like(ids).to(told["device"])}


def _add(model: Any, names: list[str], leave_out: int = 0) -> None:
    hub = importlib.import_module("adapters")
    for name in names:
        model.add_adapter(name, config=hub.SeqBnConfig(reduction_factor=16, leave_out=list(range(leave_out))))


def _inference(model: Any, told: Mapping[str, Any]) -> Any:
    batch = _batch(told, model.to(told["device"]))

    def call() -> None:
        with torch.no_grad():
            model(**batch)

    return Work(call)


def fuse(told: Mapping[str, Any], attention: str) -> Any:
    """A fusion of adapters, at inference or trained."""
    composition = importlib.import_module("adapters.composition")
    model, names = _model(told, attention), [f"a{index}" for index in range(told["adapters"])]
    _add(model, names)
    block = composition.Fuse(*names)
    model.add_adapter_fusion(block)
    model.add_classification_head("task", num_labels=3)
    if not told["training"]:
        model.set_active_adapters(block)
        model.active_head = "task"
        return _inference(model, told)
    model.train_adapter_fusion(block)
    model.active_head = "task"
    return _training(model, told, model.get_fusion_regularization_loss)


def single(told: Mapping[str, Any], attention: str) -> Any:
    """One adapter, at inference or trained; absent from the first layers where `drop` says so."""
    model = _model(told, attention)
    _add(model, ["a0"], told.get("drop", 0))
    model.add_classification_head("a0", num_labels=3)
    if not told["training"]:
        model.set_active_adapters("a0")
        return _inference(model, told)
    model.train_adapter("a0")
    return _training(model, told)


def parallel(told: Mapping[str, Any], attention: str) -> Any:
    """Adapters side by side, with a head each."""
    composition = importlib.import_module("adapters.composition")
    model, names = _model(told, attention), [f"a{index}" for index in range(told["adapters"])]
    _add(model, names, told.get("drop", 0))
    for name in names:
        model.add_classification_head(name, num_labels=3)
    model.set_active_adapters(composition.Parallel(*names))
    model.active_head = names
    model.to(told["device"])
    return _inference(model, told)


def _training(model: Any, told: Mapping[str, Any], regularization: Callable[[], Any] | None = None) -> Any:
    if told.get("checkpointing"):
        model.gradient_checkpointing_enable()
    batch = _batch(told, model)
    labels = torch.randint(0, 3, (told["rows"],), generator=torch.Generator().manual_seed(1)).to(told["device"])
    model.to(told["device"])
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    model.train()

    def call() -> None:
        loss = model(**batch, labels=labels).loss
        if regularization is not None:
            loss = loss + regularization()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return Work(call, {"trained": sum(parameter.numel() for parameter in trained)})


def texts(told: Mapping[str, Any], attention: str) -> Any:
    """Texts in batches as they come, three tasks at once."""
    composition = importlib.import_module("adapters.composition")
    model, names = _model(told, attention), [f"a{index}" for index in range(told["adapters"])]
    tokenizer = transformers.AutoTokenizer.from_pretrained(told["folder"])
    limit = min(tokenizer.model_max_length, model.config.max_position_embeddings)
    _add(model, names)
    for name in names:
        model.add_classification_head(name, num_labels=3)
    model.set_active_adapters(composition.Parallel(*names))
    model.active_head = names
    model.to(told["device"])
    lines = json.loads(Path(told["texts"]).read_text("utf-8"))

    def call() -> None:
        for start in range(0, len(lines), told["rows"]):
            chosen = lines[start : start + told["rows"]]
            batch = tokenizer(chosen, padding=True, truncation=True, max_length=limit, return_tensors="pt")
            batch = batch.to(told["device"])
            with torch.no_grad():
                out = model(**batch)
            for head in out:
                head.logits.softmax(-1).tolist()

    return Work(call, {"texts": len(lines)})


SETUPS = {"fuse": fuse, "single": single, "parallel": parallel, "texts": texts}


if __name__ == "__main__":
    LOOP["serve"](SETUPS)
