"""A golden case on a model: what it was given, what it must give, and how that is compared."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModel, PreTrainedModel

from compose import Drop, parse
from compose.dsl import Expression, fuses, own_name
from compose.heads.head import HeadInput
from compose.runtime.model import Model

HERE = Path(__file__).parent / "golden"
SHARED = Path(__file__).parents[1].parent / "shared" / "golden"
ROOT = SHARED if SHARED.is_dir() else HERE

UNSAID = {"noreft": {"subtract_projection": True}}
"""What must be said when adapters of a method are loaded, since their files do not."""


def cases(root: Path = ROOT) -> list[tuple[str, str]]:
    """Every case there is, by architecture and name."""
    return [
        (architecture.name, case.name)
        for architecture in sorted(path for path in root.iterdir() if (path / "backbone").is_dir())
        for case in sorted(architecture.iterdir())
        if (case / "case.json").exists()
    ]


@cache
def backbone(architecture: str, root: Path = ROOT) -> PreTrainedModel:
    """A golden backbone, in evaluation mode."""
    model: PreTrainedModel = AutoModel.from_pretrained(root / architecture / "backbone").eval()
    return model


class GoldenCase(NamedTuple):
    """A case whose adapters, fusions and heads a model has.

    Args:
        expression: what it runs.
        inputs: what the backbone is given.
        expected: what comes out, as `found` has it.
        labels: those of its heads, None without.
        heads: whether it is about heads.
    """

    expression: Expression
    inputs: dict[str, Tensor]
    expected: dict[str, Tensor]
    labels: Tensor | None
    heads: bool


def load_case(model: Model, architecture: str, case: str, root: Path = ROOT) -> GoldenCase:
    """Gives a model what a case needs."""
    folder = root / architecture / case
    content = json.loads((folder / "case.json").read_text())
    unsaid = UNSAID.get(content.get("method"), {})
    for adapter in sorted((folder / "adapters").iterdir()):
        model.load_adapter(adapter, **unsaid)
    for fusion in sorted((folder / "fusions").glob("*")):
        model.load_fusion(fusion)
    for head in sorted((folder / "heads").glob("*")):
        model.load_head(head)
    expression = parse(content["setup"])
    assert {own_name(fuse) for fuse in fuses(expression)} == set(model.fusions)
    skipped = content.get("activation", {}).get("skip_layers")
    if skipped:
        expression = Drop(expression, layers=skipped)
    own, labels = folder / "inputs.safetensors", folder / "labels.safetensors"
    return GoldenCase(
        expression,
        load_file(own if own.exists() else root / architecture / "inputs.safetensors"),
        load_file(folder / "expected.safetensors"),
        _labels(load_file(labels)) if labels.exists() else None,
        "heads" in content,
    )


def _labels(tensors: Mapping[str, Tensor]) -> Tensor | None:
    """The labels of a file; of question answering both positions."""
    positions = [tensors[name] for name in ("start_positions", "end_positions") if name in tensors]
    return torch.stack(positions, 1) if positions else tensors.get("labels")


def found(model: Model, plan: Any, case: GoldenCase, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
    """What a plan, compiled or not, gives for inputs, as golden files name it."""
    with torch.no_grad():
        if not case.heads:
            states = plan.states(**inputs).last_hidden_state
            if model.spec.architecture == "t5" and getattr(model.config, "scale_decoder_outputs", True):
                # AdapterHub's T5AdapterModel reports the states as its heads read them, scaled for the vocabulary.
                states = states * model.config.d_model**-0.5
            return {"last_hidden_state": states}
        out = plan(**inputs, labels=case.labels)
    result = {}
    for index, output in enumerate(out):
        head = plan.heads_of()[index]
        if head.positions:  # AdapterHub's loss sees padding too: ours does without a mask
            result[f"{index}.start_logits"], result[f"{index}.end_logits"] = output.logits.unbind(-1)
            if case.labels is not None:
                result[f"{index}.loss"] = head.loss(output.logits, case.labels, HeadInput(output.logits))
            continue
        result[f"{index}.logits"] = output.logits
        if output.loss is not None:
            result[f"{index}.loss"] = output.loss
    return result


def compare(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Holds what was found against a golden file."""
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-5, rtol=1e-5)
