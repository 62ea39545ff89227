"""Outputs against what AdapterHub computes: the golden cases.

A selection lies in `tests/golden`; where the whole collection is beside the checkout, all of it runs.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel

from compose import Drop, parse
from compose.dsl import fuses, own_name
from compose.runtime.attach import attach

HERE = Path(__file__).parent / "golden"
SHARED = Path(__file__).parents[1].parent / "shared" / "golden"
ROOT = SHARED if SHARED.is_dir() else HERE

ARCHITECTURES = ("bert", "roberta", "distilbert", "gpt2", "llama", "t5", "vit")
METHODS = (
    "adapterplus",
    "compacter",
    "compacterpp",
    "dora",
    "double_seq_bn",
    "dvora",
    "gated",
    "houlsby",
    "houlsby_inv",
    "ia3",
    "leave_out",
    "ln_after_residual",
    "ln_both",
    "lora",
    "lora_all",
    "loreft",
    "loreft_suffix",
    "mam",
    "mtl_lora",
    "no_ln_before",
    "noreft",
    "parallel",
    "pfeiffer",
    "pfeiffer_inv_nice",
    "prefix",
    "prefix_flat",
    "prompt",
    "residual_after_ln",
    "scaled_parallel_learned",
    "unipelt",
    "vera",
)
UNSAID = {"noreft": {"subtract_projection": True}}
"""What must be said when adapters of a method are loaded, since their files do not."""
HEADS = (
    "causal_lm",
    "classification",
    "image_classification",
    "parallel-unlabelled",
    "pooler",
    "regression",
    "tagging",
)


def covered(architecture: str, case: str) -> bool:
    """Whether architecture and method are supported."""
    kind, _, what = case.partition("-")
    if architecture not in ARCHITECTURES:
        return False
    return {"method": what in METHODS, "compose": True, "head": what in HEADS}[kind]


def cases() -> list[tuple[str, str]]:
    """Every case there is."""
    return [
        (architecture.name, case.name)
        for architecture in sorted(path for path in ROOT.iterdir() if (path / "backbone").is_dir())
        for case in sorted(architecture.iterdir())
        if (case / "case.json").exists()
    ]


CASES = cases()


@cache
def backbone(architecture: str):  # type: ignore[no-untyped-def]
    return AutoModel.from_pretrained(ROOT / architecture / "backbone").eval()


def test_there_are_cases(golden_table: dict[tuple[str, str], str]) -> None:
    golden_table.update({case: "not covered" for case in CASES if not covered(*case)})
    assert len([case for case in CASES if covered(*case)]) >= 14


@pytest.mark.parametrize(("architecture", "case"), [case for case in CASES if covered(*case)])
def test_golden(architecture: str, case: str, golden_table: dict[tuple[str, str], str]) -> None:
    golden_table[architecture, case] = "failed"
    folder = ROOT / architecture / case
    content = json.loads((folder / "case.json").read_text())
    model = attach(backbone(architecture))
    try:
        run_case(model, folder, content, ROOT / architecture)
    finally:
        model.detach()
    golden_table[architecture, case] = "passed"


def run_case(model, folder: Path, content, root: Path) -> None:  # type: ignore[no-untyped-def]
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
    own = folder / "inputs.safetensors"
    inputs = load_file(own if own.exists() else root / "inputs.safetensors")
    expected = load_file(folder / "expected.safetensors")
    plan = model.plan(expression)
    with torch.no_grad():
        if "heads" not in content:
            states = plan.states(**inputs).last_hidden_state
            if model.spec.architecture == "t5" and model.config.scale_decoder_outputs:
                # AdapterHub's T5AdapterModel reports the states as its heads read them, scaled for the vocabulary.
                states = states * model.config.d_model**-0.5
            compare({"last_hidden_state": states}, expected)
            return
        labels = load_file(folder / "labels.safetensors") if (folder / "labels.safetensors").exists() else {}
        out = plan(**inputs, labels=labels.get("labels"))
    found = {}
    for index, output in enumerate(out):
        found[f"{index}.logits"] = output.logits
        if output.loss is not None:
            found[f"{index}.loss"] = output.loss
    compare(found, expected)


def compare(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-5, rtol=1e-5)
